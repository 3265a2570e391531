"""Scheduling policies by name: the broker's own, and those that installed packages register."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from backends.plugins import PluginUnusable, installed, load, unknown
from orchestrator.broker.core.policies import POLICIES, Policy, make_policy

__all__ = ["GROUP", "known_policies", "named_policy"]

GROUP = "hpcqc.policies"
_MEMBERS = ("name", "by_payer", "longest_wait_s", "job_score", "account_score", "terms")


def known_policies() -> list[str]:
    """Return the names of all policies: the broker's own, then those of installed packages."""
    return list(dict.fromkeys([*POLICIES, *installed(GROUP)]))


def named_policy(name: str, parameters: Mapping[str, Any] | None = None) -> Policy:
    """Return a policy by name, its parameters as given; the broker's own come first.

    Raises ``ValueError`` for an unknown name, a package that does not import or holds no policy,
    and an unknown or invalid parameter.
    """
    if name in POLICIES:
        return make_policy(name, parameters)
    points = installed(GROUP)
    if name not in points:
        raise unknown(name, [*POLICIES, *points], noun="policy")
    return make_policy(name, parameters, {name: _class(name)})


def _class(name: str) -> type[Any]:
    found: Any = load(GROUP, name, noun="policy")
    missing = [member for member in _MEMBERS if not hasattr(found, member)]
    if not is_dataclass(found) or not isinstance(found, type) or missing:
        raise PluginUnusable(
            f"policy {name!r} is {found!r}; expected a frozen dataclass with {', '.join(_MEMBERS)}"
        )
    return found
