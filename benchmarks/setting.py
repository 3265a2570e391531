"""A throw-away site for measurements: two workers, Aer, a state folder on the real disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator import resources, runs
from orchestrator.config import LocalCompute, QpuSettings, Site
from orchestrator.runs import Run

__all__ = ["scratch_run"]

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def scratch_run(name: str) -> Iterator[Run]:
    """Activate a resumable run; everything it started is ended and removed afterwards."""
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=ROOT) as folder:
        site = Site(
            name="bench",
            default_qpu="aer",
            default_compute="local",
            qpus={"aer": QpuSettings(name="aer", backend="aer", options={})},
            computes={"local": LocalCompute(name="local")},
            state_dir=Path(folder) / "state",
            source="benchmarks",
        )
        run = Run(id=name, site=site)
        runs.activate(run)
        try:
            yield run
        finally:
            resources.shutdown()
            runs.activate(None)
