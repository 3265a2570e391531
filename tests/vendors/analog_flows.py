"""Runs of analog sequences on a rehearsed site, and what the site's own books say of them."""

from __future__ import annotations

import secrets

from hpcqc import AnalogSampler, RydbergPulse, Waveform, open_qpu, rydberg_sequence
from orchestrator import resources, runs
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.qpu_tables import QpuSettings, ScheduleSettings
from orchestrator.config.site import Site
from orchestrator.runs import Run
from tests.patience import PATIENCE_S

__all__ = ["AnalogRun", "far_pair", "most_frequent", "sent"]


class AnalogRun:
    """An active run on the server, and how often the server started something for it."""

    def __init__(self, server, state_dir, rules, backend) -> None:
        server.behave()
        self.server, self._before = server, server.meter()
        # A job is one task, however long its shots take.
        rules = {"schedule": ScheduleSettings(slice_s=0), **rules}
        qpu = QpuSettings(name="atoms", backend=backend, options=server.options, **rules)
        self._run = Run(
            id=f"faults-{secrets.token_hex(4)}",  # other tests' jobs have other tags
            site=Site(
                name="test",
                default_qpu="atoms",
                default_compute="local",
                qpus={"atoms": qpu},
                computes={"local": ComputeSettings(name="local", workers=1)},
                state_dir=state_dir,
                source="test",
            ),
        )

    def __enter__(self):
        runs.activate(self._run)
        self.sampler = AnalogSampler(open_qpu())
        return self

    def __exit__(self, *_):
        resources.shutdown()
        runs.activate(None)

    @property
    def starts(self) -> int:
        return sum(self.server.meter()["starts"].values()) - sum(self._before["starts"].values())

    @property
    def qpu_seconds(self) -> float:
        return self.server.meter()["qpu_seconds"] - self._before["qpu_seconds"]


def pulse(duration_ns: int = 1000) -> RydbergPulse:
    return RydbergPulse(
        amplitude=Waveform.constant(duration_ns, 3.14159),
        detuning=Waveform.constant(duration_ns, 0.0),
    )


def far_pair(device, duration_ns: int = 1000) -> str:
    """A turn of π for two atoms that hardly interact."""
    return rydberg_sequence({"a": (0, 0), "b": (25, 0)}, [pulse(duration_ns)], device)


def most_frequent(job) -> str:
    (counts,) = job.result(PATIENCE_S)
    return max(counts.counts, key=counts.counts.__getitem__)


def sent(run, shots=100):
    return run.sampler.run([far_pair(run.sampler.qpu.target.rydberg)], shots=shots)
