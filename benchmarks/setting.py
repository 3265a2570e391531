"""A throw-away site for measurements: two workers, Aer, a state folder on the real disk."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator import resources, runs
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.site import Site
from orchestrator.runs import Run

__all__ = ["scratch_run"]

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def scratch_run(
    name: str,
    profiles: Sequence[str] = (),
    computes: Sequence[ComputeSettings] = (ComputeSettings(name="local"),),
    coupling: str = "",
) -> Iterator[Run]:
    """Activate a resumable run; everything it started is ended and removed afterwards.

    profiles: of devices that are QPUs beside the ideal one, under the profiles' names.
    computes: of the site, the default one first.
    """
    devices = {
        profile: QpuSettings(name=profile, backend="aer", options={"profile": profile})
        for profile in profiles
    }
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=ROOT) as folder:
        site = Site(
            name="bench",
            default_qpu="aer",
            default_compute=computes[0].name,
            qpus={"aer": QpuSettings(name="aer", backend="aer", options={}), **devices},
            computes={settings.name: settings for settings in computes},
            state_dir=Path(folder) / "state",
            source="benchmarks",
        )
        # Prefect keeps results beyond this process, and a run of this id would find them again.
        run = Run(id=f"{name}-{uuid.uuid4().hex[:8]}", site=site, coupling=coupling)
        runs.activate(run)
        try:
            yield run
        finally:
            resources.shutdown()
            runs.activate(None)
