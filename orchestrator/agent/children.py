"""What the supervisor starts: one frozen value per child."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["BeatProbe", "Child", "HttpProbe", "Probe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpProbe:
    """Ready, and healthy, while this address answers 200. socket: a Unix socket to ask over."""

    url: str
    socket: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BeatProbe:
    """Ready once the child has written this file, healthy while it touches it often enough."""

    path: Path
    stale_s: float = 30.0


Probe = HttpProbe | BeatProbe


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One process that the agent keeps running.

    module, arguments: run as ``python -m``. environment: added to the agent's own. sockets: name
    → descriptor of a listening socket that the supervisor holds, so that the address stays and
    clients wait while the child is started again; the child reads the number where
    ``{name}`` stands in an argument. title: what a person calls it. stop_s: how long its
    farewell may take. hung_after_s: how long it may be silent before it is killed.
    """

    name: str
    title: str
    module: str
    probe: Probe
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    sockets: Mapping[str, int] = field(default_factory=dict)
    stop_s: float = 5.0
    hung_after_s: float = 180.0
