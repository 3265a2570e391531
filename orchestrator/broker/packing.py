"""How queued work is cut and packed into qpu_tasks within a target's limits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from backends.api import Target
from orchestrator.broker.events import JobSubmitted, Part

__all__ = ["Limits", "UncertainRule", "cut", "pack", "subtract", "whole_parts"]


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
    """Return one part per PUB that covers all of it."""
    return [
        Part(
            job=job.job,
            pub=index,
            first_point=0,
            end_point=shape.points,
            first_shot=0,
            end_shot=shape.shots,
        )
        for index, shape in enumerate(job.pubs)
    ]


def cut(part: Part, *, max_points: int | None, max_shots: int | None) -> Part:
    """Return the largest piece at the part's corner that fits; estimator PUBs stay whole."""
    if part.end_shot == 0:
        return part
    points = part.points if max_points is None else min(part.points, max_points)
    shots = part.shots if max_shots is None else min(part.shots, max_shots)
    return replace(part, end_point=part.first_point + points, end_shot=part.first_shot + shots)


def subtract(part: Part, piece: Part) -> list[Part]:
    """Return what is left of a part when `cut`'s piece is taken out of its corner."""
    rest = []
    if piece.end_shot < part.end_shot:
        rest.append(replace(part, end_point=piece.end_point, first_shot=piece.end_shot))
    if piece.end_point < part.end_point:
        rest.append(replace(part, first_point=piece.end_point))
    return rest


def pack(parts: Iterable[Part], limits: Limits) -> Sequence[Part]:
    """Take pieces from the head of the queue until a limit is met; at least one piece.

    Pieces are cut from the corner of their parts, and nothing is taken from behind a part
    that was cut, so work keeps its order.
    """
    taken: list[Part] = []
    room = limits.max_circuits
    for part in parts:
        if room is not None and room <= 0:
            break
        piece = cut(part, max_points=room, max_shots=limits.max_shots)
        taken.append(piece)
        if room is not None:
            room -= piece.points
        if piece != part:
            break
    return taken
