"""Chains of stages with times in whole seconds, for counts beside the prediction's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from orchestrator.couplings.models import ClusterModel, FlowModel, StageModel

__all__ = ["LATENCIES", "SECONDS", "Latencies", "Step", "chain"]

SECONDS = st.integers(1, 30)


@dataclass
class Step:
    """A stage of a chain. times: by number of nodes; own_s: of a quantum stage, without the QPU."""

    quantum: bool
    times: dict[int, int]
    least: int = 1
    own_s: int = 0


@dataclass
class Latencies:
    """Seconds of a cluster and a QPU."""

    start: int
    boot: int
    end: int
    wait: int
    qpu: int

    def cluster(self, nodes: int) -> ClusterModel:
        return ClusterModel(
            nodes=nodes,
            start_s=self.start,
            boot_s=self.boot,
            end_s=self.end,
            wait_s=self.wait,
        )


LATENCIES = st.builds(
    Latencies,
    start=st.integers(0, 4),
    boot=st.integers(0, 4),
    end=st.integers(0, 4),
    wait=st.integers(0, 9),
    qpu=st.integers(0, 4),
)


def chain(name: str, of: Sequence[Step], nodes_max: int) -> FlowModel:
    """Return a flow whose stages follow each other."""
    stages = tuple(
        StageModel(
            name=str(n),
            kind="quantum" if step.quantum else "classical",
            seconds=step.times[1] if step.quantum else step.times,
            nodes=step.least,
            nodes_max=max(step.times),
            after=(str(n - 1),) if n else (),
            qpu_seconds=step.times[1] - step.own_s if step.quantum else None,
        )
        for n, step in enumerate(of)
    )
    return FlowModel(name=name, stages=stages, nodes_max=nodes_max)
