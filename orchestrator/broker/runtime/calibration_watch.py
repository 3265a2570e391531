"""Watches each QPU for new calibrations and changes of its calendar while a broker runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from backends.api import Backend, Dated, Heard, Target
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.rules import Window
from orchestrator.broker.ledger import LedgerError, LedgerUnwritable
from orchestrator.broker.runtime.event_loop import EventLoop
from orchestrator.broker.runtime.site_rules import SETTLING, calendar_of
from orchestrator.config.errors import ConfigError
from orchestrator.config.qpu_tables import QpuSettings

__all__ = ["CalibrationWatch"]

_SHORTEST_S = 0.1
_RENEWED_EVERY = timedelta(days=1)
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class CalibrationWatch:
    """Reads each QPU's target every ``every_s`` s and after closures, on the broker's loop."""

    events: EventLoop
    every_s: float
    closures: Mapping[str, tuple[Window, ...]] = field(default_factory=dict)  # of Slurm, by QPU
    targets: dict[str, Target] = field(default_factory=dict)  # as last read, by QPU
    read_at: dict[str, datetime] = field(default_factory=dict)  # when each QPU's target was read
    silent_since: dict[str, datetime] = field(default_factory=dict)  # of QPUs that do not answer
    _calibrations: dict[str, str] = field(default_factory=dict)  # last id read, by QPU
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _watched: dict[str, tuple[QpuSettings, Backend]] = field(default_factory=dict)

    def watch(self, settings: QpuSettings, backend: Backend) -> None:
        """Watch an attached QPU from now on."""
        self._watched[settings.name] = (settings, backend)
        self._tasks.append(asyncio.create_task(self._poll(settings, backend, self.events.clock())))

    async def note(self, qpu: str, target: Target, backend: Backend | None = None) -> None:
        """Post an event if the QPU was calibrated anew. Raises `LedgerError`.

        backend: of a QPU that is not watched yet.
        """
        self.targets[qpu] = target
        self._note_heard(qpu, backend or self._watched[qpu][1])
        calibration, before = target.calibration.id, self._calibrations.get(qpu, "")
        if calibration == before:
            return
        self._calibrations[qpu] = calibration
        if before or self._contradicts(qpu, calibration):
            event = ev.QpuRecalibrated(qpu=qpu, calibration=calibration, before=before)
            try:
                await self.events.post(event)
            except LedgerError:  # post it after the next reading
                del self._calibrations[qpu]
                if before:
                    self._calibrations[qpu] = before
                raise

    def _note_heard(self, qpu: str, backend: Backend) -> None:
        """Take down when a QPU answered: a target may be what was last known of it."""
        heard = backend.heard if isinstance(backend, Dated) else Heard()
        if heard.silent_since_s is not None:
            since = datetime.fromtimestamp(heard.silent_since_s, UTC)
            self.silent_since.setdefault(qpu, since)
        else:
            self.silent_since.pop(qpu, None)
        if heard.at_s is not None:
            self.read_at[qpu] = datetime.fromtimestamp(heard.at_s, UTC)
        elif heard.silent_since_s is None:
            self.read_at[qpu] = self.events.clock()

    def is_known(self, qpu: str, target: Target) -> bool:
        """Whether `note` would do nothing; from any thread."""
        return self._calibrations.get(qpu) == target.calibration.id

    async def renew(self, qpu: str) -> None:
        """Put a QPU's calendar with its ``closures`` in force now. Raises `LedgerError`."""
        if qpu not in self._watched:
            return  # it is attached with them
        settings, backend = self._watched[qpu]
        try:
            target = await asyncio.to_thread(backend.target)
        except Exception as error:  # noqa: BLE001  # a foreign backend; polling asks it again
            _log.info("the target of QPU %s cannot be read: %s", qpu, error)
            return
        await self._renew(settings, target, self.events.clock())

    async def close(self) -> None:
        """Stop all polling."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _contradicts(self, qpu: str, calibration: str) -> bool:
        """Whether an earlier broker left a job or a history of another calibration."""
        state = self.events.state
        history = state.histories.get(qpu)
        if history is not None and calibration in history.outdated:
            return True
        return any(
            record.submitted.calibration not in ("", calibration)
            for record in state.jobs.values()
            if record.submitted.qpu == qpu and record.ended_at is None
        )

    async def _poll(self, settings: QpuSettings, backend: Backend, renewed_at: datetime) -> None:
        stamp: object = None  # the file may have changed since the rules were made
        while True:
            await asyncio.sleep(self._pause_s(settings.name))
            before = self._calibrations.get(settings.name)
            try:
                target = await asyncio.to_thread(backend.target)
            except Exception as error:  # noqa: BLE001  # a foreign backend; it is asked again
                _log.info("the target of QPU %s cannot be read: %s", settings.name, error)
                self.silent_since.setdefault(settings.name, self.events.clock())
                continue
            self._note_heard(settings.name, backend)
            try:
                # Else `note` was called meanwhile.
                if self._calibrations.get(settings.name) == before:
                    await self.note(settings.name, target)
                now, file = self.events.clock(), await asyncio.to_thread(_stamp, settings)
                found = (file, self.closures.get(settings.name, ()))
                if found != stamp or now - renewed_at >= _RENEWED_EVERY:
                    await self._renew(settings, target, now)
                    renewed_at, stamp = now, found
            except LedgerUnwritable:
                continue  # until it can be written
            except LedgerError:
                return  # the broker has stopped

    async def _renew(self, settings: QpuSettings, target: Target, now: datetime) -> None:
        """Expand the calendar anew; the old one stays in force if that fails."""
        try:
            more = self.closures.get(settings.name, ())
            calendar = await asyncio.to_thread(calendar_of, settings, target, now, more=more)
        except ConfigError as error:
            _log.warning("QPU %s keeps the calendar it had: %s", settings.name, error)
            return
        rules = self.events.state.rules[settings.name]
        await self.events.reconfigure(settings.name, replace(rules, calendar=calendar))

    def _pause_s(self, qpu: str) -> float:
        now = self.events.clock()
        closure = self.events.state.rules[qpu].calendar.closure_at(now)
        if closure is None:
            return self.every_s
        left_s = (closure.end - SETTLING - now).total_seconds()
        return min(self.every_s, max(left_s, _SHORTEST_S))


def _stamp(settings: QpuSettings) -> tuple[int, int] | None:
    """Return what changes when the QPU's calendar file does; None without one."""
    path = settings.schedule.calendar
    try:
        found = None if path is None else path.stat()
    except OSError:
        return (0, 0)
    return None if found is None else (found.st_mtime_ns, found.st_size)
