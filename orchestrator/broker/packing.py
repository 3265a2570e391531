"""How queued work is cut and packed into qpu_tasks within a target's limits (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from backends.api import Target
from orchestrator.broker.events import JobSubmitted, Part

__all__ = [
    "SHOT_BLOCK",
    "Limits",
    "UncertainRule",
    "cut",
    "pack",
    "subtract",
    "thin",
    "whole_parts",
]

# With a seed, so many shots of a point share one random stream, whether they run together or not.
SHOT_BLOCK = 8192

UncertainRule = Literal["ask", "fail", "adopt-wait"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds a qpu_task and how many may be open. None means unlimited.

    uncertain: what becomes of a task that may or may not run: ``ask`` an operator and tell the
    client, ``fail`` it at once, or ``adopt-wait``: keep the client waiting until it is found.
    """

    max_shots: int | None = None
    max_circuits: int | None = None
    max_concurrent_tasks: int | None = 1
    coalesces: bool = False
    can_find: bool = True
    uncertain: UncertainRule = "ask"

    @classmethod
    def of(cls, target: Target, uncertain: UncertainRule = "ask") -> Limits:
        """Read the limits from what the backend publishes; the rule is the site's."""
        return cls(
            max_shots=target.max_shots,
            max_circuits=target.max_circuits,
            max_concurrent_tasks=target.max_concurrent_tasks,
            coalesces=target.coalesces,
            can_find=target.can_find,
            uncertain=uncertain,
        )


def whole_parts(job: JobSubmitted) -> list[Part]:
    """Return parts that cover all of a job: one per PUB, or with a seed one per block of shots.

    Blocks are the same however the job is sliced later, so equal seeds give equal counts.
    """
    parts = []
    for index, shape in enumerate(job.pubs):
        block = SHOT_BLOCK if job.seed is not None else max(shape.shots, 1)
        parts += [
            Part(
                job=job.job,
                pub=index,
                first_point=0,
                end_point=shape.points,
                first_shot=first,
                end_shot=min(first + block, shape.shots),
            )
            for first in range(0, max(shape.shots, 1), block)
        ]
    return parts


def cut(part: Part, *, max_points: int | None, max_shots: int | None) -> Part:
    """Return the largest piece at the part's corner that fits; estimator PUBs stay whole."""
    if part.end_shot == 0:
        return part
    points = part.points if max_points is None else min(part.points, max_points)
    shots = part.shots if max_shots is None else min(part.shots, max_shots)
    if points == part.points and shots == part.shots:
        return part
    return replace(part, end_point=part.first_point + points, end_shot=part.first_shot + shots)


def subtract(part: Part, piece: Part) -> list[Part]:
    """Return what is left of a part when `cut`'s piece is taken out of its corner."""
    rest = []
    if piece.end_shot < part.end_shot:
        rest.append(replace(part, end_point=piece.end_point, first_shot=piece.end_shot))
    if piece.end_point < part.end_point:
        rest.append(replace(part, first_point=piece.end_point))
    return rest


def thin(part: Part, most: int, *, keep_shots: bool) -> Part:
    """Return the largest piece at the part's corner with at most so many executions of a circuit.

    keep_shots: never cut between shots. At least one point, or one shot, is left.
    """
    if part.end_shot == 0 or part.points * part.shots <= most:
        return part
    if part.shots <= most or keep_shots:
        return cut(part, max_points=max(1, most // part.shots), max_shots=None)
    return cut(part, max_points=1, max_shots=max(1, most))


def pack(
    parts: Iterable[Part],
    limits: Limits,
    *,
    slice_of: Callable[[Part], Part] | None = None,
    takes: Callable[[Part], bool] | None = None,
) -> Sequence[Part]:
    """Take pieces from the head of the queue until a limit is met or ``takes`` refuses one.

    slice_of: cuts a piece shorter than the machine asks for. Pieces are cut from the corner of
    their parts, and nothing is taken from behind a part that was cut, so work keeps its order.
    """
    taken: list[Part] = []
    room = limits.max_circuits
    for part in parts:
        if room is not None and room <= 0:
            break
        piece = cut(part, max_points=room, max_shots=limits.max_shots)
        if slice_of is not None:
            piece = slice_of(piece)
        if takes is not None and not takes(piece):
            break
        taken.append(piece)
        if room is not None:
            room -= piece.points
        if piece is not part:
            break
    return taken
