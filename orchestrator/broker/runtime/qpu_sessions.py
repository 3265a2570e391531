"""The sessions of one QPU's backend: one for all tasks, and one for each lease where it has such."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from backends.api import Backend, Leasing, SessionId

__all__ = ["LeaseTime", "QpuSessions"]

_SHARED = ""
# Before each try to release what was kept for a lease.
_PAUSES_S = (0.0, 0.5, 1.0, 2.0, 4.0)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTime:
    """A lease, and how long it lasts at the most."""

    lease: str
    longest_s: float


@dataclass(eq=False)
class QpuSessions:
    """Opens sessions when a task needs them, and closes that of a lease at its end.

    call: runs a call of the backend on a thread.
    """

    backend: Backend
    call: Callable[..., Awaitable[Any]]
    _open: dict[str, SessionId] = field(default_factory=dict)  # by lease
    _leases: dict[str, LeaseTime] = field(default_factory=dict)
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)

    def begin(self, lease: LeaseTime | None) -> None:
        """Let tasks of a lease have a session of its own, if the backend has such."""
        if lease is not None and isinstance(self.backend, Leasing):
            self._leases.setdefault(lease.lease, lease)

    async def get(self, lease: LeaseTime | None) -> SessionId:
        """Return the session for a task; that of all tasks if its lease is over."""
        name = self._name(lease)
        if name not in self._open:
            async with self._opening:
                name = self._name(lease)  # it may have ended meanwhile
                if name not in self._open:
                    self._open[name] = await self._opened(self._leases.get(name))
        return self._open[name]

    def forget(self, session: SessionId) -> None:
        """Take a session for lost."""
        for name in [name for name, known in self._open.items() if known == session]:
            del self._open[name]

    async def end(self, lease: str) -> None:
        """Close the session of a lease that is over, also one that an earlier broker opened."""
        self._leases.pop(lease, None)
        if not isinstance(self.backend, Leasing):
            return
        failed: Exception | None = None
        for pause_s in _PAUSES_S:
            await asyncio.sleep(pause_s)
            try:
                async with self._opening:
                    if lease not in self._open:
                        over = LeaseTime(lease=lease, longest_s=0.0)
                        self._open[lease] = await self._opened(over)
                    if lease not in self._leases:  # else it has begun again
                        await self.call(self.backend.release, self._open[lease])
                        self._open.pop(lease, None)
                return
            except Exception as error:  # noqa: BLE001  # a foreign backend may raise anything
                failed = error
        _log.warning("what was kept for lease %s was not released: %s", lease, failed)

    async def close(self) -> None:
        """Close all sessions that are open."""
        for session in tuple(self._open.values()):  # leases end meanwhile
            with contextlib.suppress(Exception):  # the backend's own closing comes next
                await self.call(self.backend.release, session)

    def _name(self, lease: LeaseTime | None) -> str:
        return lease.lease if lease is not None and lease.lease in self._leases else _SHARED

    async def _opened(self, lease: LeaseTime | None) -> SessionId:
        if lease is not None and isinstance(self.backend, Leasing):
            opening = self.call(self.backend.acquire_lease, lease.lease, lease.longest_s)
        else:
            opening = self.call(self.backend.acquire)
        session: SessionId = await opening
        return session
