"""Unix users as callers: the peer of a Unix socket, as the kernel reports it."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.unix_sockets import peer_uid
from orchestrator.broker.core.access import Identity

__all__ = ["EXTENSION", "UnixPeer", "UnixUsers", "identity_of", "peer_of", "peer_of_socket"]

# Key in the scope's extensions, which only the server sets; no header or address is read for it.
EXTENSION = "hpcqc.peer"
_REMEMBERED_S = 60.0
_MOST_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class UnixPeer:
    """The process that connected to a Unix socket, by its user id at that time."""

    uid: int


def peer_of_socket(connection: socket.socket) -> UnixPeer | None:
    """Return the peer of a connected Unix socket, None for any other socket."""
    return UnixPeer(peer_uid(connection)) if connection.family == socket.AF_UNIX else None


def peer_of(scope: Mapping[str, Any]) -> UnixPeer | None:
    """Return the peer that the server recognised for a request, if any."""
    peer = (scope.get("extensions") or {}).get(EXTENSION)
    return peer if isinstance(peer, UnixPeer) else None


@dataclass(eq=False)
class UnixUsers:
    """Looks up Unix users as callers, and remembers each for a minute."""

    groups: frozenset[str] = frozenset()  # the Unix groups that are projects of this site
    monotonic: Callable[[], float] = time.monotonic
    _known: dict[int, tuple[float, Identity | None]] = field(default_factory=dict)

    async def identity(self, peer: UnixPeer) -> Identity | None:
        """Return the caller of a peer, None for a user that the system does not know."""
        now = self.monotonic()
        looked_up_at, identity = self._known.get(peer.uid, (-_REMEMBERED_S, None))
        if now - looked_up_at >= _REMEMBERED_S:
            # On a thread, because a directory service may answer slowly.
            identity = await asyncio.to_thread(identity_of, peer.uid, self.groups)
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            self._known[peer.uid] = (now, identity)
        return identity


def identity_of(uid: int, groups: frozenset[str]) -> Identity | None:
    """Return the caller with this user id, None if the system has no such user. May block."""
    if uid == _overflow_uid():  # shared by all users of other user namespaces
        return None
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return None
    if uid in (0, os.geteuid()):
        return Identity(user=entry.pw_name, role="operator", projects=("default",))
    names = []
    for gid in os.getgrouplist(entry.pw_name, entry.pw_gid):
        with suppress(KeyError):
            names.append(grp.getgrgid(gid).gr_name)
    projects = tuple(name for name in names if name in groups)
    return Identity(user=entry.pw_name, role="user", projects=projects)


def _overflow_uid() -> int:
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 65534
