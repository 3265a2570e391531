"""Cutting and packing parts: nothing is lost, nothing overlaps, no limit is exceeded."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from backends.shapes import ItemShape
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.codec import to_json
from orchestrator.broker.core.events import Part
from orchestrator.broker.core.packing import (
    SHOT_BLOCK,
    TaskLimits,
    cut,
    pack,
    subtract,
    thin,
    whole_parts,
)
from orchestrator.broker.core.state import BrokerState
from orchestrator.identity import JobId


def part(points: int, shots: int, pub: int = 0) -> Part:
    return Part(
        job=JobId("j"), pub=pub, first_point=0, end_point=points, first_shot=0, end_shot=shots
    )


def cells(pieces: list[Part]) -> list[tuple[int, int, int]]:
    return [
        (piece.pub, point, shot)
        for piece in pieces
        for point in range(piece.first_point, piece.end_point)
        for shot in range(piece.first_shot, piece.end_shot)
    ]


@given(
    points=st.integers(1, 9),
    shots=st.integers(1, 40),
    max_points=st.none() | st.integers(1, 12),
    max_shots=st.none() | st.integers(1, 50),
)
def test_a_cut_and_its_rest_tile_the_part(
    points: int, shots: int, max_points: int | None, max_shots: int | None
) -> None:
    whole = part(points, shots)
    piece = cut(whole, max_points=max_points, max_shots=max_shots)
    together = cells([piece, *subtract(whole, piece)])
    assert sorted(together) == sorted(cells([whole]))
    assert len(set(together)) == len(together)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 30)), min_size=1, max_size=6),
    max_circuits=st.none() | st.integers(1, 10),
    max_shots=st.none() | st.integers(1, 20),
)
def test_packs_stay_within_limits_and_empty_the_queue(
    sizes: list[tuple[int, int]], max_circuits: int | None, max_shots: int | None
) -> None:
    queue = [part(points, shots, pub) for pub, (points, shots) in enumerate(sizes)]
    expected = cells(queue)
    limits = TaskLimits(max_circuits=max_circuits, max_shots=max_shots)
    packed: list[Part] = []
    while queue:
        pieces = list(pack(queue, limits))
        assert pieces, "a pack must take something, or the queue never ends"
        assert max_circuits is None or sum(p.points for p in pieces) <= max_circuits
        assert max_shots is None or all(p.shots <= max_shots for p in pieces)
        packed += pieces
        for piece in pieces:
            corner = (piece.pub, piece.first_point, piece.first_shot)
            index = next(
                i for i, p in enumerate(queue) if (p.pub, p.first_point, p.first_shot) == corner
            )
            queue[index : index + 1] = subtract(queue[index], piece)
    assert sorted(cells(packed)) == sorted(expected)


def seeded(points: int, shots: int) -> ev.JobSubmitted:
    return ev.JobSubmitted(
        job=JobId("j"),
        run="r",
        stage=None,
        call=0,
        qpu="q",
        backend="fake",
        payload_kind="sampler",
        digest="d",
        pubs=(ItemShape(points=points, shots=shots),),
        num_qubits=2,
        seed=1,
    )


def planned(*parts: Part) -> ev.TaskPlanned:
    return ev.TaskPlanned(tag="j.0", qpu="q", parts=parts)


def test_what_a_plan_writes_does_not_grow_with_the_shots() -> None:
    sizes = []
    for shots in (10, SHOT_BLOCK, 10**6, 10**9):
        parts = pack(whole_parts(seeded(3, shots)), TaskLimits(max_concurrent_tasks=None))
        sizes.append(len(to_json(planned(*parts))))
    assert max(sizes) < 300


@given(
    points=st.integers(1, 5),
    shots=st.integers(1, 6 * SHOT_BLOCK),
    most=st.integers(1, 10 * SHOT_BLOCK),
    max_points=st.none() | st.integers(1, 12),
    max_shots=st.none() | st.integers(1000, 3 * SHOT_BLOCK),
)
def test_seeded_work_is_cut_at_the_same_shots_whatever_the_slices(
    points: int, shots: int, most: int, max_points: int | None, max_shots: int | None
) -> None:
    queue, blocks = whole_parts(seeded(points, shots)), []
    while queue:
        whole = queue.pop(0)
        piece = cut(whole, max_points=max_points, max_shots=max_shots)
        piece = thin(piece, most, keep_shots=True)
        assert piece.points > 0
        assert piece.shots > 0
        assert max_points is None or piece.circuits <= max_points
        queue = subtract(whole, piece) + queue
        blocks += [(p, b.first_shot, b.end_shot) for b in piece.by_block() for p in range(b.points)]
        assert piece.circuits == sum(block.points for block in piece.by_block())
    step = min(SHOT_BLOCK, max_shots or SHOT_BLOCK)
    ends = {
        min(first + at + step, first + SHOT_BLOCK, shots)
        for first in range(0, shots, SHOT_BLOCK)
        for at in range(0, SHOT_BLOCK, step)
    }
    assert {end for _, _, end in blocks} <= ends
    assert sum(end - first for _, first, end in blocks) == points * shots


def test_a_plan_with_a_part_for_each_block_is_still_read() -> None:
    """Ledgers written before plans were compact hold rectangles that were cut block by block."""
    state, now = BrokerState(), datetime(2026, 1, 1, tzinfo=UTC)
    state.apply(seeded(3, 20_000), now)
    old = [
        ((0, 2), (0, 8192)),
        ((2, 3), (0, 8192)),
        ((0, 3), (8192, 16384)),
        ((0, 3), (16384, 20_000)),
    ]
    for number, ((first, end), (first_shot, end_shot)) in enumerate(old):
        piece = Part(
            job=JobId("j"),
            pub=0,
            first_point=first,
            end_point=end,
            first_shot=first_shot,
            end_shot=end_shot,
        )
        state.apply(replace(planned(piece), tag=f"j.{number}"), now)
    assert not state.jobs[JobId("j")].pending


def test_an_estimator_pub_is_never_cut() -> None:
    whole = part(points=50, shots=0)
    assert pack([whole], TaskLimits(max_circuits=1, max_shots=10)) == [whole]
