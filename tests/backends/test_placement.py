"""How simulations share the cores: splits, threads and learnt timings."""

from __future__ import annotations

import pytest

from backends.aer.placement import MachineLoad, Placement, ThreadingHeuristic, place

IDLE = MachineLoad(cores=4, workers=4)
WIDE, NARROW = 20, 12
SECOND = 1.0


@pytest.mark.parametrize(
    ("pubs", "seconds", "parts"),
    [(8, 0.1, 4), (3, 0.1, 3), (1, 9.0, 1), (8, 0.0005, 1), (8, 0.0011, 2)],
)
def test_narrow_pubs_are_split_where_it_is_worth_it(pubs: int, seconds: float, parts: int) -> None:
    assert place(NARROW, pubs, pubs * seconds, IDLE) == Placement(parts=parts, threads=1)


def test_a_wide_pub_that_cannot_be_split_gets_the_free_cores() -> None:
    assert place(WIDE, 1, SECOND, IDLE) == Placement(parts=1, threads=4)
    assert place(WIDE, 1, SECOND, MachineLoad(cores=4, workers=4, busy=2)).threads == 2
    assert place(WIDE, 1, SECOND, MachineLoad(cores=4, workers=4, busy=9)).threads == 1


def test_wide_pubs_that_leave_most_cores_idle_get_threads() -> None:
    many = MachineLoad(cores=64, workers=64)
    assert place(WIDE, 32, 32 * SECOND, many) == Placement(parts=1, threads=64)
    assert place(WIDE, 33, 33 * SECOND, many) == Placement(parts=33, threads=1)


def test_states_that_do_not_all_fit_into_memory_are_not_run_side_by_side() -> None:
    assert place(WIDE, 8, 8 * SECOND, MachineLoad(cores=4, workers=1)) == Placement(
        parts=1, threads=4
    )


@pytest.mark.parametrize(("threaded_s", "wins"), [(0.5, 4), (4.0, 1)])
def test_both_ways_are_tried_and_the_faster_is_kept(threaded_s: float, wins: int) -> None:
    heuristic, chosen = ThreadingHeuristic(), []
    for _ in range(40):
        placement = place(WIDE, 4, 4 * SECOND, IDLE, heuristic)
        chosen.append(placement.threads)
        if placement.is_wide:
            heuristic.note(WIDE, placement, 4 * SECOND, 4 * threaded_s)
        else:
            for _ in range(placement.parts):
                heuristic.note(WIDE, placement, SECOND, 4 * SECOND)
    assert chosen[:2] == [1, 4]
    assert chosen[2:].count(wins) >= 35
    assert set(chosen[2:]) == {1, 4}  # the slower way is looked at again


def test_one_width_teaches_nothing_about_another() -> None:
    heuristic = ThreadingHeuristic()
    heuristic.note(WIDE, Placement(parts=1, threads=4), SECOND, 0.1)
    heuristic.note(WIDE, Placement(parts=4, threads=1), SECOND, 9.0)
    assert place(WIDE, 4, 4 * SECOND, IDLE, heuristic).threads == 4
    assert place(WIDE + 1, 4, 4 * SECOND, IDLE, heuristic).threads == 1


def test_a_part_of_no_expected_length_teaches_nothing() -> None:
    heuristic = ThreadingHeuristic()
    heuristic.note(WIDE, Placement(parts=4, threads=1), 0.0, 1.0)
    assert heuristic == ThreadingHeuristic()
