"""What a coupling tells the workers at the borders of stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from orchestrator.compute.api import Demand
from orchestrator.couplings import placement
from orchestrator.couplings.placement import Coupled, Uncoupled, WorkerBounds, at_first
from tests.patience import until

BOUNDS = WorkerBounds(nodes_min=1, nodes_max=3)


class Workers:
    """Records what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, bool]] = []
        self.started = 0

    def start(self) -> None:
        self.started += 1

    def want(self, workers: int, *, held: bool = False) -> None:
        self.asked.append((workers, held))

    def shares(self, demand: Demand) -> bool:
        return demand.nodes == 1 and not demand.gpus

    def on_own_waiting(self, react: Callable[[bool], None]) -> None:
        self.report_own_waiting = react


class Qpu:
    """Counts who holds it."""

    def __init__(self) -> None:
        self.holders = 0

    @contextmanager
    def hold(self, name: str) -> Iterator[int]:
        assert name == "vlq"
        self.holders += 1
        yield 7
        self.holders -= 1


def coupled(
    coupling: str, workers: Workers, qpu: Qpu, bounds: WorkerBounds = BOUNDS, **more: object
) -> Coupled:
    return Coupled(
        coupling,
        pool=lambda name: (workers, bounds) if name == "cluster" else None,
        hold_qpu=qpu.hold,
        default=("cluster", "vlq"),
        **more,  # type: ignore[arg-type]
    )


def test_malleable_shrinks_for_a_quantum_stage_and_grows_again() -> None:
    workers, qpu = Workers(), Qpu()
    placed = coupled("malleable", workers, qpu)
    with placed.classical("cluster", Demand(nodes_max=3)):
        assert workers.asked == [(3, False)]
    assert workers.asked == [(3, False)]  # nothing is active: the next stage may need them
    with placed.quantum("k", "vlq"):
        assert workers.asked[-1] == (1, False)
        assert qpu.holders == 1
    assert qpu.holders == 0
    with placed.classical("cluster", Demand()):
        assert workers.asked[-1] == (1, False)
    with placed.classical("cluster", Demand(nodes_max=3)):
        assert workers.asked[-1] == (3, False)
    assert workers.started == 1


def test_stages_that_overlap_are_counted_together() -> None:
    workers, qpu = Workers(), Qpu()
    placed = coupled("malleable", workers, qpu)
    with placed.quantum("k", "vlq"), placed.classical("cluster", Demand(nodes_max=2)):
        with placed.classical("cluster", Demand()):
            assert workers.asked[-1] == (3, False)
        assert workers.asked[-1] == (2, False)


@pytest.mark.parametrize("demand", [Demand(nodes=2), Demand(gpus=1)])
def test_a_stage_with_an_allocation_of_its_own_keeps_no_shared_node(demand: Demand) -> None:
    workers, qpu = Workers(), Qpu()
    placed = coupled("malleable", workers, qpu, bounds=WorkerBounds(nodes_min=0, nodes_max=3))
    with placed.classical("cluster", demand):
        assert workers.asked == [(0, False)]
        with placed.classical("cluster", Demand()):
            assert workers.asked[-1] == (1, False)
        assert workers.asked[-1] == (0, False)


@pytest.mark.parametrize(
    ("coupling", "starts"),
    [("multiplexed", 0), ("gated", 0), ("malleable", 0), ("split", 0), ("exclusive", 1)],
)
@pytest.mark.parametrize("demand", [Demand(nodes=2), Demand(gpus=1)])
def test_shared_workers_start_when_a_stage_is_to_use_them(coupling, starts, demand) -> None:
    workers, qpu = Workers(), Qpu()
    placed = coupled(coupling, workers, qpu)
    with placed.classical("cluster", demand):
        assert workers.started == starts
    with placed.quantum("k", "vlq"):
        assert workers.started == starts
    with placed.classical("cluster", Demand()):
        assert workers.started == (coupling != "split")


def test_a_failed_stage_is_no_longer_counted() -> None:
    workers, qpu = Workers(), Qpu()
    placed = coupled("malleable", workers, qpu)
    with pytest.raises(ZeroDivisionError), placed.classical("cluster", Demand(nodes_max=3)):
        raise ZeroDivisionError
    with placed.quantum("k", "vlq"):
        assert workers.asked[-1] == (1, False)


def test_a_compute_that_cannot_change_is_left_as_it_is() -> None:
    workers, qpu = Workers(), Qpu()
    with coupled("malleable", workers, qpu).classical("laptop", Demand()):
        pass
    assert (workers.asked, workers.started) == ([], 0)


@pytest.mark.parametrize("coupling", ["exclusive", "split", "multiplexed"])
def test_others_want_the_same_all_the_time(coupling: str) -> None:
    workers, qpu = Workers(), Qpu()
    placed = coupled(coupling, workers, qpu)
    with placed.classical("cluster", Demand(nodes_max=3)):
        pass
    with placed.quantum("k", "vlq"):
        pass
    assert set(workers.asked) == {(0 if coupling == "split" else 3, False)}


def test_a_gate_opens_once_the_qpu_will_be_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "_GATE_LOOKS_EVERY_S", 0.01)
    workers, qpu, busy = Workers(), Qpu(), [100.0]
    placed = coupled("gated", workers, qpu, qpu_free_in_s=lambda _: busy[0], quantum_after_s=50.0)
    with placed.classical("cluster", Demand()):
        assert workers.asked == [(3, True)]
        busy[0] = 40.0
        until(lambda: workers.asked[-1] == (3, False), lambda: workers.asked)
        busy[0] = 100.0
        with placed.classical("cluster", Demand()):
            assert workers.asked[-1] == (3, False)
    placed.close()


def test_workers_that_start_early_start_as_the_coupling_has_them() -> None:
    wanted = {
        name: at_first(name, BOUNDS, gated=True)
        for name in ("exclusive", "split", "multiplexed", "malleable", "gated")
    }
    assert {name: one.workers for name, one in wanted.items()} == {
        "exclusive": 3,
        "split": 0,
        "multiplexed": 3,
        "malleable": 1,
        "gated": 3,
    }
    assert [name for name, one in wanted.items() if one.held] == ["gated"]
    assert not at_first("gated", BOUNDS, gated=False).held


def test_without_a_coupling_the_qpu_is_held_all_the_same() -> None:
    qpu = Qpu()
    with Uncoupled(qpu.hold).quantum("k", "vlq"):
        assert qpu.holders == 1
    assert qpu.holders == 0
    with Uncoupled().quantum("k", "vlq"), Uncoupled().classical("cluster", Demand()):
        pass


@pytest.mark.parametrize(("coupling", "usual"), [("multiplexed", 3), ("malleable", 1)])
def test_workers_give_way_to_an_allocation_that_waits_until_the_next_stage_that_shares_them(
    coupling: str, usual: int
) -> None:
    workers = Workers()
    placed = coupled(coupling, workers, Qpu())
    with placed.classical("cluster", Demand()):
        assert workers.asked == [(usual, False)]
    with placed.classical("cluster", Demand(nodes=2)):
        assert workers.asked[-1] == (usual, False)
        workers.report_own_waiting(True)
        assert workers.asked[-1] == (0, False)
        workers.report_own_waiting(False)  # it has its nodes
    with placed.classical("cluster", Demand(nodes=2)), placed.quantum("k", "vlq"):
        assert workers.asked[-1] == (0, False)
    with placed.classical("cluster", Demand()):
        assert workers.asked[-1] == (usual, False)


def test_workers_that_a_stage_shares_give_way_when_it_ends() -> None:
    workers = Workers()
    placed = coupled("multiplexed", workers, Qpu())
    with placed.classical("cluster", Demand(nodes=2)):
        with placed.classical("cluster", Demand()):
            workers.report_own_waiting(True)
            assert workers.asked == [(3, False)]
        assert workers.asked == [(3, False), (0, False)]
