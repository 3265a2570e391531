"""The checks of payloads and tags that every backend and the broker share (pure)."""

from __future__ import annotations

import math
from typing import Any

from backends.api import Target, Usage
from backends.errors import PayloadRejected
from backends.payloads import Payload, kind_names, payload_kind
from backends.tags import is_tag

__all__ = ["check", "check_fits", "check_tag", "check_usage"]


def check(payload: Payload, target: Target) -> None:
    """Raise `PayloadRejected` unless the target can run the payload as it is, in one task."""
    check_fits(payload, target)
    shapes = payload.shapes
    for index, shape in enumerate(shapes):
        if target.max_shots is not None and shape.shots > target.max_shots:
            raise PayloadRejected(
                f"PUB {index}: {shape.shots} shots, {target.name} takes at most "
                f"{target.max_shots} per task; ask for fewer or send several tasks"
            )
    different = sorted({shape.shots for shape in shapes})
    if target.uniform_shots and len(different) > 1:
        raise PayloadRejected(
            f"PUBs of {different[0]} and of {different[1]} shots in one task; {target.name} takes "
            "one number of shots per task; send several tasks"
        )
    circuits = sum(shape.points for shape in shapes)
    if target.max_circuits is not None and circuits > target.max_circuits:
        raise PayloadRejected(
            f"{circuits} circuits in one task, {target.name} takes at most "
            f"{target.max_circuits}; send several tasks"
        )


def check_fits(payload: Any, target: Target) -> None:
    """Raise `PayloadRejected` for an item that cannot run; shot and circuit limits do not count."""
    accepted = ", ".join(sorted(target.payload_kinds)) or "none"
    name = getattr(payload, "kind", None)
    if not isinstance(name, str):
        raise PayloadRejected(
            f"got {type(payload).__name__} where a payload is expected; {target.name} takes: "
            f"{accepted}. Build one with SamplerPayload.coerce or EstimatorPayload.coerce, or with "
            f"the package of another kind; installed are: {', '.join(kind_names())}"
        )
    kind = payload_kind(name)
    if name not in target.payload_kinds:
        raise PayloadRejected(
            f"payload of kind {name!r}; {target.name} takes: {accepted}; {kind.remedy}"
        )
    kind.check(payload, target)


def check_tag(tag: object) -> None:
    """Raise `PayloadRejected` unless the tag is a file name that is safe everywhere."""
    if not is_tag(tag):
        raise PayloadRejected(
            f"tag {tag!r}; use 1 to 200 letters, digits and any of _ . = + -, not beginning "
            "with a sign or a dot"
        )


def check_usage(usage: Usage) -> None:
    """Raise ``ValueError`` for a usage that cannot be: budgets and fair share would count it."""
    amounts = [usage.qpu_seconds, *(charge.amount for charge in usage.charges)]
    counts = [usage.shots, usage.circuits, usage.tasks]
    if not all(0 <= amount < math.inf for amount in (*amounts, *counts)):
        raise ValueError(f"its usage is {usage}; expected finite amounts, none below 0")
