"""An active run on a rehearsed site, and what the site's own books say of it."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from hpcqc import Sampler, open_qpu
from orchestrator import resources, runs
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.site import Site
from orchestrator.runs import Run
from tests.rehearsed import RehearsedSite

__all__ = ["RehearsedFlow", "rehearsed_flow"]


class RehearsedFlow:
    """A sampler of an active run. starts: of its jobs, by tag. charged: to it, in ``unit``."""

    def __init__(self, server: RehearsedSite) -> None:
        self.server, self._before = server, server.meter()
        self.qpu = open_qpu()
        self.sampler = Sampler(self.qpu)

    @property
    def starts(self) -> dict[str, int]:
        now = Counter(self.server.meter()["starts"])
        now.subtract(self._before["starts"])
        return {label: number for label, number in now.items() if number}

    def charged(self, unit: str) -> float:
        before = self._before["charges"].get(unit, 0.0)
        return self.server.meter()["charges"].get(unit, 0.0) - before


@contextmanager
def rehearsed_flow(
    server: RehearsedSite, state_dir, backend: str, **options
) -> Iterator[RehearsedFlow]:
    """Run a flow on a site that behaves well; misbehave in the block."""
    server.behave()
    qpu = QpuSettings(name="rehearsed", backend=backend, options={**server.options, **options})
    run = Run(
        id=f"faults-{uuid.uuid4().hex[:8]}",
        site=Site(
            name="test",
            default_qpu="rehearsed",
            default_compute="local",
            qpus={"rehearsed": qpu},
            computes={"local": ComputeSettings(name="local", workers=1)},
            state_dir=state_dir,
            source="test",
        ),
    )
    runs.activate(run)
    try:
        yield RehearsedFlow(server)
    finally:
        resources.shutdown()
        runs.activate(None)
        server.behave()
