"""A stand-in for the published clustering experiment: the same stages, each of a fixed length.

Every iteration clusters on up to three nodes, then runs one QPU task, then rates on one node. The
classical stages sleep, with a serial part and a part that is spread over the nodes, such that they
take 78 s on three nodes and 82 s on two at full scale. Of a quantum stage's 122.8 s the QPU works 120.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from prefect import flow
from qiskit import QuantumCircuit

from hpcqc import Qpu, classical, fan_out, quantum
from orchestrator.couplings.models import FlowModel, StageModel

__all__ = ["COPIES", "ITERATIONS", "NODES", "PUBLISHED", "Figures", "Phases", "loop", "model"]

COPIES = 2

ITERATIONS = 4
NODES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What two copies of the experiment took: in all, on the nodes, and the QPU's busy share."""

    makespan_s: float
    node_seconds: float
    qpu_busy: float


# "Three ways to share a QPU" (arXiv 2604.14955), read out of its figure; `clustering-mis` has the
# code (Apache-2.0).
PUBLISHED = {
    "exclusive": Figures(makespan_s=2041, node_seconds=6117, qpu_busy=0.47),
    "split": Figures(makespan_s=1228, node_seconds=2328, qpu_busy=0.78),
    "malleable": Figures(makespan_s=1127, node_seconds=2816, qpu_busy=0.85),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Seconds of each stage at full scale; the spread part is in units of equal length.

    qpu_share: the part of a quantum stage in which the QPU works.
    """

    serial_s: float = 70.0
    units: int = 6
    unit_s: float = 4.0
    quantum_s: float = 122.8
    qpu_share: float = 120.0 / 122.8
    rating_s: float = 54.0

    @property
    def on_qpu_s(self) -> float:
        """How long the task of a quantum stage takes on the QPU."""
        return self.quantum_s * self.qpu_share

    def scaled(self, scale: float) -> Phases:
        """Return stages that are so many times as long."""
        return Phases(
            serial_s=self.serial_s * scale,
            units=self.units,
            unit_s=self.unit_s * scale,
            quantum_s=self.quantum_s * scale,
            qpu_share=self.qpu_share,
            rating_s=self.rating_s * scale,
        )

    def clustering_s(self, nodes: int) -> float:
        """Return how long clustering takes on so many nodes.

        >>> [Phases().clustering_s(nodes) for nodes in (1, 2, 3)]
        [94.0, 82.0, 78.0]
        """
        return self.serial_s + self.unit_s * -(-self.units // nodes)


def model(
    name: str, phases: Phases, *, nodes_min: int = 1, iterations: int = ITERATIONS
) -> FlowModel:
    """Return one copy as predictions take it."""
    by_nodes = {nodes: phases.clustering_s(nodes) for nodes in range(1, NODES + 1)}
    stages: list[StageModel] = []
    before: tuple[str, ...] = ()
    for turn in range(1, iterations + 1):
        names = (f"clusterings {turn}", f"choice {turn}", f"rating {turn}")
        stages += [
            StageModel(
                name=names[0], kind="classical", seconds=by_nodes, nodes_max=NODES, after=before
            ),
            StageModel(
                name=names[1],
                kind="quantum",
                seconds=phases.quantum_s,
                qpu_seconds=phases.on_qpu_s,
                after=(names[0],),
            ),
            StageModel(name=names[2], kind="classical", seconds=phases.rating_s, after=(names[1],)),
        ]
        before = (names[2],)
    return FlowModel(name=name, stages=tuple(stages), nodes_min=nodes_min, nodes_max=NODES)


@classical(nodes=(1, NODES))
def clusterings(previous: float, scale: float) -> float:
    """Cluster: a serial part, then units on all nodes that the stage has."""
    phases = Phases().scaled(scale)
    time.sleep(phases.serial_s)
    fan_out(time.sleep, [phases.unit_s] * phases.units)
    return previous + 1


@quantum
def choice(qpu: Qpu, proposed: float, scale: float) -> float:
    """Choose clusters: work without the QPU, then one task, whose length the QPU sets."""
    phases = Phases().scaled(scale)
    time.sleep(phases.quantum_s - phases.on_qpu_s)
    circuit = QuantumCircuit(2)
    circuit.h([0, 1])
    circuit.measure_all()
    qpu.sampler(default_shots=16).run([circuit]).result()
    return proposed


@classical
def rating(chosen: float, scale: float) -> float:
    """Rate the choice on one node."""
    time.sleep(Phases().rating_s * scale)
    return chosen


@flow
def loop(scale: float = 0.05, iterations: int = ITERATIONS) -> dict[str, Any]:
    """Run one copy; ``scale`` is the length of its stages to the published ones."""
    done = 0.0
    for _ in range(iterations):
        done = rating(choice(clusterings(done, scale), scale), scale)
    return {"iterations": done, "summary": [f"{done:g} iterations at scale {scale:g}."]}
