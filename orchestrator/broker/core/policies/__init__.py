"""Scheduling policies, each in a file of its own; further ones come from other packages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from backends.suggestions import did_you_mean
from orchestrator.broker.core.policies.fair_share import FairShare, fair_factor
from orchestrator.broker.core.policies.fifo import Fifo
from orchestrator.broker.core.policies.interface import (
    Policy,
    QueuedJob,
    Situation,
    urgency,
)
from orchestrator.broker.core.policies.priority import Priority
from orchestrator.broker.core.policies.shortest import Shortest
from orchestrator.broker.core.policies.weighted import Weighted

__all__ = [
    "POLICIES",
    "FairShare",
    "Fifo",
    "Policy",
    "Priority",
    "QueuedJob",
    "Shortest",
    "Situation",
    "Weighted",
    "fair_factor",
    "make_policy",
    "urgency",
]

POLICIES: Mapping[str, type[Any]] = {
    policy.name: policy for policy in (Fifo, Priority, FairShare, Shortest, Weighted)
}


def make_policy(
    name: str,
    settings: Mapping[str, Any] | None = None,
    policies: Mapping[str, type[Any]] = POLICIES,
) -> Policy:
    """Return one of the policies by name, its parameters as given.

    Raises ``ValueError`` that names the nearest policy or parameter.
    """
    if name not in policies:
        raise ValueError(f"there is no policy {name!r}{_nearest(name, list(policies))}")
    known = [field.name for field in fields(policies[name])]
    for key, value in (settings or {}).items():
        if key not in known:
            raise ValueError(f"policy {name} has no parameter {key!r}{_nearest(key, known)}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        positive = key.endswith("_s")
        if not number or not math.isfinite(value) or value < 0:
            raise ValueError(f"policy {name}: {key} = {value!r}; give a number of at least 0")
        if positive and value == 0:
            raise ValueError(f"policy {name}: {key} = 0; give a number of seconds above 0")
    policy: Policy = policies[name](**(settings or {}))
    return policy


def _nearest(word: str, known: list[str]) -> str:
    listed = f"; there are: {', '.join(known)}" if known else "; it takes none"
    return did_you_mean(word, known) or listed
