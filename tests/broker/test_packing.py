"""Cutting and packing parts: nothing is lost, nothing overlaps, no limit is exceeded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.broker.events import Part
from orchestrator.broker.packing import Limits, cut, pack, subtract
from orchestrator.broker.views import JobId


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
    limits = Limits(max_circuits=max_circuits, max_shots=max_shots)
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


def test_an_estimator_pub_is_never_cut() -> None:
    whole = part(points=50, shots=0)
    assert pack([whole], Limits(max_circuits=1, max_shots=10)) == [whole]
