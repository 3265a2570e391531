"""How queued work is cut and packed into qpu_tasks within a target's limits (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from backends.api import Target
from orchestrator.broker.core.events import JobSubmitted, Part

__all__ = [
    "SHOT_BLOCK",
    "TaskLimits",
    "UncertainRule",
    "cut",
    "pack",
    "subtract",
    "thin",
    "whole_parts",
]

# With a seed, so many shots of a point share one random stream, whether they run together or not.
SHOT_BLOCK = 8192

# What becomes of a task that may or may not run: ``ask`` an operator and tell the client, ``fail``
# it at once, or ``adopt-wait``: the client waits until it is found.
UncertainRule = Literal["ask", "fail", "adopt-wait"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLimits:
    """What bounds a qpu_task and how many may be open. None means unlimited."""

    max_shots: int | None = None
    max_circuits: int | None = None
    max_concurrent_tasks: int | None = 1
    coalesces: bool = False
    uniform_shots: bool = False
    can_find: bool = True
    uncertain: UncertainRule = "ask"

    @classmethod
    def of(cls, target: Target, uncertain: UncertainRule = "ask") -> TaskLimits:
        """Read the limits from what the backend publishes; the rule is the site's."""
        return cls(
            max_shots=target.max_shots,
            max_circuits=target.max_circuits,
            max_concurrent_tasks=target.max_concurrent_tasks,
            coalesces=target.coalesces,
            uniform_shots=target.uniform_shots,
            can_find=target.can_find,
            uncertain=uncertain,
        )


def whole_parts(job: JobSubmitted) -> list[Part]:
    """Return parts that cover all of a job: one per PUB, however many shots that has.

    With a seed they state the block at whose multiples alone they may be cut between shots, so
    that equal seeds give equal counts however the job is sliced later.
    """
    return [
        Part(
            job=job.job,
            pub=index,
            first_point=0,
            end_point=shape.points,
            first_shot=0,
            end_shot=shape.shots,
            block=SHOT_BLOCK if job.seed is not None and shape.shots else 0,
        )
        for index, shape in enumerate(job.pubs)
    ]


def cut(part: Part, *, max_points: int | None, max_shots: int | None) -> Part:
    """Return the largest piece at the part's corner that fits; items without shots stay whole.

    max_points: circuits in the piece, where each block of shots is one for itself. A device that
    takes fewer shots than a block holds gets the pieces of a block one by one.
    """
    if part.end_shot == 0:
        return part
    points = part.points if max_points is None else min(part.points, max_points)
    end_shot = part.end_shot
    if max_shots is not None and (not part.block or max_shots < part.block):
        end_shot = min(end_shot, part.first_shot + max_shots, part.block_end(1))
    if part.block and max_points is not None:
        end_shot = min(end_shot, part.block_end(max(1, max_points // points)))
    if points == part.points and end_shot == part.end_shot:
        return part
    return replace(part, end_point=part.first_point + points, end_shot=end_shot)


def subtract(part: Part, piece: Part) -> list[Part]:
    """Return what is left of a part when a piece that covers some of it is taken out."""
    first, end = max(part.first_point, piece.first_point), min(part.end_point, piece.end_point)
    same = replace(part, first_point=first, end_point=end)
    rest = []
    if first > part.first_point:
        rest.append(replace(part, end_point=first))
    if piece.first_shot > part.first_shot:
        rest.append(replace(same, end_shot=piece.first_shot))
    if piece.end_shot < part.end_shot:
        rest.append(replace(same, first_shot=piece.end_shot))
    if end < part.end_point:
        rest.append(replace(part, first_point=end))
    return rest


def thin(part: Part, most: int, *, keep_shots: bool) -> Part:
    """Return the largest piece at the corner with at most so many executions, at least one."""
    if part.end_shot == 0 or part.points * part.shots <= most:
        return part
    if part.block:
        one = part.block_end(1) - part.first_shot
        points = min(part.points, max(1, most // one))
        blocks = max(1, most // (points * part.block)) if points == part.points else 1
        return replace(
            part,
            end_point=part.first_point + points,
            end_shot=min(part.end_shot, part.block_end(blocks)),
        )
    if part.shots <= most or keep_shots:
        return cut(part, max_points=max(1, most // part.shots), max_shots=None)
    return cut(part, max_points=1, max_shots=max(1, most))


def pack(
    parts: Iterable[Part],
    limits: TaskLimits,
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
        if limits.uniform_shots and taken and piece.shots != taken[0].shots:
            break
        taken.append(piece)
        if room is not None:
            room -= piece.circuits
        if piece is not part:
            break
    return taken
