"""The other end of a connection: the Unix user behind a socket, as the kernel reports it."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.broker.core.access import Identity
from orchestrator.unix_sockets import peer_uid

__all__ = ["EXTENSION", "UnixPeer", "UnixUsers", "identity_of", "peer_of", "peer_of_socket"]

# Key in the scope's extensions. Only the server sets it; headers and addresses are never read for it.
EXTENSION = "hpcqc.peer"
_REMEMBERED_S = 60.0
_MOST_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class UnixPeer:
    """The process that connected to a Unix socket: its user id when it connected."""

    uid: int


def peer_of_socket(connection: socket.socket) -> UnixPeer | None:
    """Return the peer of a connected Unix socket, None for any other kind of socket."""
    if connection.family != socket.AF_UNIX:
        return None
    return UnixPeer(peer_uid(connection))


def peer_of(scope: Mapping[str, Any]) -> UnixPeer | None:
    """Return the peer that the server recognised for a request, None if there is none."""
    found = (scope.get("extensions") or {}).get(EXTENSION)
    return found if isinstance(found, UnixPeer) else None


@dataclass(eq=False)
class UnixUsers:
    """Looks up Unix users as callers, and remembers each for a minute at most.

    groups: the Unix groups that are projects of this site; membership in others means nothing.
    """

    groups: frozenset[str] = frozenset()
    monotonic: Callable[[], float] = time.monotonic
    _known: dict[int, tuple[float, Identity | None]] = field(default_factory=dict)

    async def identity(self, peer: UnixPeer) -> Identity | None:
        """Return who a peer is, None for a user that the system does not know.

        The lookup runs on a thread, because a directory service may answer slowly.
        """
        now = self.monotonic()
        found = self._known.get(peer.uid)
        if found is not None and now - found[0] < _REMEMBERED_S:
            return found[1]
        identity = await asyncio.to_thread(identity_of, peer.uid, self.groups)
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[peer.uid] = (now, identity)
        return identity


def identity_of(uid: int, groups: frozenset[str]) -> Identity | None:
    """Return the caller with this user id, None if the system has no such user.

    Root and the broker's own user are operators. Any other user has those of their Unix groups
    as projects that are in ``groups``. The overflow id stands for every user of another user
    namespace at once, so it is nobody. May block.
    """
    if uid == _overflow_uid():
        return None
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return None
    if uid in (0, os.geteuid()):
        return Identity(user=entry.pw_name, role="operator", projects=("default",))
    projects = [
        name for gid in os.getgrouplist(entry.pw_name, entry.pw_gid) if (name := _group(gid))
    ]
    return Identity(
        user=entry.pw_name,
        role="user",
        projects=tuple(name for name in projects if name in groups),
    )


def _group(gid: int) -> str | None:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return None


def _overflow_uid() -> int:
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 65534
