"""How many worker jobs the stages of a run share, in the run and as predicted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.compute.api import Demand
from orchestrator.couplings.models import ClusterModel, FlowModel, QpuModel, StageModel
from orchestrator.couplings.placement import Coupled, WorkerBounds, at_first
from orchestrator.couplings.policies import submits_shared
from orchestrator.couplings.prediction import predict

NODES_MIN, NODES_MAX, LONG_S = 1, 3, 10.0
DEMANDS = (Demand(), Demand(nodes_max=2), Demand(nodes=2), Demand(gpus=1))


class Workers:
    """Shared worker jobs that Slurm grants at once."""

    def __init__(self, coupling: str, bounds: WorkerBounds) -> None:
        self.wanted = at_first(coupling, bounds, gated=False).workers
        self.are_started = False

    @property
    def nodes(self) -> int:
        return self.wanted if self.are_started else 0

    def start(self) -> None:
        self.are_started = True

    def want(self, workers: int, *, held: bool = False) -> None:
        assert not held
        self.wanted = workers

    def shares(self, demand: Demand) -> bool:
        return demand.nodes == 1 and not demand.gpus

    def on_own_waiting(self, react: Callable[[bool], None]) -> None:
        self.report_own_waiting = react


@contextmanager
def granted(qpu: str) -> Iterator[None]:
    del qpu
    yield


def in_a_run(coupling: str, chain: list[Demand | None], declared: list[Demand]) -> list[int]:
    """Return the shared nodes in each stage; None is a quantum one."""
    bounds = WorkerBounds(nodes_min=NODES_MIN, nodes_max=NODES_MAX)
    workers = Workers(coupling, bounds)
    placed = Coupled(
        coupling, pool=lambda _: (workers, bounds), hold_qpu=granted, default=("cluster", "qpu")
    )
    shares = [workers.shares(demand) for demand in declared]
    if submits_shared(at_first(coupling, bounds, gated=False), shares):  # as the run starts
        workers.start()
    found = []
    for demand in chain:
        with placed.quantum("k", "qpu") if demand is None else placed.classical("cluster", demand):
            found.append(workers.nodes)
    return found


def as_predicted(coupling: str, chain: list[Demand | None], declared: list[Demand]) -> list[int]:
    stages = tuple(
        StageModel(
            name=str(n),
            kind="quantum" if demand is None else "classical",
            seconds=LONG_S,
            nodes=1 if demand is None else demand.nodes,
            nodes_max=1 if demand is None else demand.nodes_max,
            alone=demand is not None and demand.gpus > 0,
            after=(str(n - 1),) if n else (),
        )
        for n, demand in enumerate(chain)
    )
    flow = FlowModel(
        name="f",
        stages=stages,
        nodes_min=NODES_MIN,
        nodes_max=NODES_MAX,
        declared=tuple(demand.nodes == 1 and not demand.gpus for demand in declared),
    )
    made = predict([flow], ClusterModel(nodes=9), QpuModel(tells_queue=False), coupling)
    jobs = [one for one in made.occupations if one.what == "nodes" and one.name == "shared"]
    middles_s = [LONG_S * (n + 0.5) for n in range(len(chain))]
    return [sum(j.nodes for j in jobs if j.start_s < at_s < j.end_s) for at_s in middles_s]


@pytest.mark.parametrize("coupling", ["exclusive", "split", "multiplexed", "malleable", "gated"])
@given(
    st.lists(st.sampled_from((None, *DEMANDS)), min_size=1, max_size=5),
    st.booleans(),
    st.lists(st.sampled_from(DEMANDS), max_size=1),
)
def test_a_run_and_its_prediction_share_as_many_worker_jobs(
    coupling: str, chain: list[Demand | None], are_declared: bool, beside: list[Demand]
) -> None:
    declared = beside + [one for one in chain if one is not None and are_declared]
    assert as_predicted(coupling, chain, declared) == in_a_run(coupling, chain, declared)
