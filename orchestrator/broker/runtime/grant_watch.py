"""Asks Slurm whether the jobs that quantum work is bound to still hold their QPUs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol

from orchestrator.broker.core import events as ev
from orchestrator.broker.core.grants import Grant
from orchestrator.broker.core.rules import Window
from orchestrator.broker.ledger import LedgerError, LedgerUnwritable
from orchestrator.broker.runtime.event_loop import EventLoop
from orchestrator.config.slurm_access import SlurmAccess

__all__ = ["Allocations", "GrantState", "GrantWatch", "NotGranted"]

_log = logging.getLogger(__name__)
# Reservations are read so often, and a watch that nothing wakes looks so often.
_LONGEST_S = 60.0


class NotGranted(ValueError):
    """A job for a QPU that Slurm grants names no Slurm job; nothing was submitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantState:
    """What Slurm says of a job that is to hold a QPU for a user. reason: for that user."""

    state: Literal["holds", "waits", "ended", "unknown"]
    reason: str = ""


class Allocations(Protocol):
    """What a broker asks Slurm. Calls block, and raise if Slurm does not answer."""

    def look(self, grants: Collection[Grant]) -> Mapping[Grant, GrantState]:
        """Return how each grant stands, by one query for all of them."""
        ...

    def closures(self) -> Mapping[str, tuple[Window, ...]]:
        """Return the maintenance that Slurm has reserved, by QPU."""
        ...


@dataclass(eq=False)
class GrantWatch:
    """Posts an event when a Slurm job begins or ceases to hold a QPU; lives on the broker's loop.

    No answer is not an end: what runs goes on. After the QPU's ``patience_s`` without an answer
    nothing further starts.
    """

    events: EventLoop
    accesses: Mapping[str, SlurmAccess]  # of the QPUs that Slurm grants
    allocations: Allocations | None  # None where Slurm is not to be asked
    answered_at: datetime | None = None
    error: str | None = None  # why the last query failed, None after an answer
    closures: dict[str, tuple[Window, ...]] = field(default_factory=dict)  # by QPU
    renew: Callable[[str], Awaitable[None]] | None = None  # puts a QPU's closures in force
    _closures_at: datetime | None = None
    _wakeup: asyncio.Event = field(default_factory=asyncio.Event)
    _confirmed_at: dict[Grant, datetime] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch from now on."""
        if self.accesses and self.allocations is not None:
            self._task = asyncio.create_task(self._watch(self.allocations))

    def wake(self) -> None:
        """Look at once: there is work that is bound to a Slurm job. On the loop."""
        self._wakeup.set()

    async def close(self) -> None:
        """Stop asking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self, allocations: Allocations) -> None:
        while True:
            try:
                # Before a grant is confirmed, so that nothing starts in a closure.
                for qpu in await self._read_closures(allocations):
                    if self.renew is not None:
                        await self.renew(qpu)
            except LedgerUnwritable as error:
                _log.info("Slurm's reservations are not in force yet: %s", error)
            except LedgerError:
                return  # the broker has stopped
            bound = {g for g in self.events.state.bound() if g.qpu in self.accesses}
            pause_s = min((self.accesses[grant.qpu].check_s for grant in bound), default=_LONGEST_S)
            if bound:
                found = await self._ask(allocations, bound)
                try:
                    for grant in sorted(bound):
                        await self._note(grant, found.get(grant, GrantState(state="unknown")))
                except LedgerUnwritable as error:
                    _log.info("what Slurm said is not recorded yet: %s", error)
                except LedgerError:
                    return  # the broker has stopped
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wakeup.wait(), pause_s)
            self._wakeup.clear()

    async def _ask(
        self, allocations: Allocations, bound: Collection[Grant]
    ) -> Mapping[Grant, GrantState]:
        try:
            found = await asyncio.to_thread(allocations.look, bound)
        except Exception as error:  # noqa: BLE001  # of whatever kind: Slurm did not say
            if self.error is None:
                _log.warning("Slurm does not say whether jobs hold their QPUs: %s", error)
            self.error = str(error) or type(error).__name__
            return {}
        self.answered_at, self.error = self.events.clock(), None
        return found

    async def _read_closures(self, allocations: Allocations) -> list[str]:
        """Return the QPUs whose closures are others than before."""
        now = self.events.clock()
        if self._closures_at is not None and now - self._closures_at < timedelta(
            seconds=_LONGEST_S
        ):
            return []
        self._closures_at = now
        try:
            found = await asyncio.to_thread(allocations.closures)
        except Exception as error:  # noqa: BLE001  # those that are known stay in force
            _log.info("Slurm's reservations cannot be read: %s", error)
            return []
        changed = [
            name for name, windows in found.items() if self.closures.get(name, ()) != windows
        ]
        self.closures.update(found)
        return changed

    async def _note(self, grant: Grant, found: GrantState) -> None:
        """Post what has changed of a grant."""
        now, may_start = self.events.clock(), self.events.state.grants.get(grant.text)
        if found.state == "holds":
            self._confirmed_at[grant] = now
            if not may_start:
                await self.events.post(ev.GrantConfirmed(**grant._asdict()))
        elif found.state == "ended" or (found.state == "waits" and may_start is not None):
            self._confirmed_at.pop(grant, None)
            await self.events.post(ev.GrantEnded(**grant._asdict(), reason=found.reason))
        elif found.state == "unknown" and may_start:
            since = self._confirmed_at.setdefault(grant, now)
            patience = timedelta(seconds=self.accesses[grant.qpu].patience_s)
            if now - since >= patience:
                reason = self.error or found.reason or "Slurm did not answer"
                await self.events.post(ev.GrantSuspended(**grant._asdict(), reason=reason))
