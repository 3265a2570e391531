"""Reads untrusted payloads in processes that may die of it, and starts these again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import IO

from backends.api import PayloadRejected, QpuUnavailable, Target
from backends.targets import target_to_json
from orchestrator.broker.runtime.checked_payload import CheckedPayload
from orchestrator.broker.runtime.intake.reader import ANSWER, BY_ITSELF, REQUEST
from orchestrator.broker.runtime.quotas import PerUserSemaphore

__all__ = ["Intake", "IntakeLimits"]

# Our packages are found by their place, before anything of the same name beside a user's script.
# A reader that starts a thread for each core would need memory that it is not given.
_BOOT = (
    "import os, sys; "
    "[os.putenv(f'{library}_NUM_THREADS', '1') for library in ('OMP', 'OPENBLAS', 'RAYON')]; "
    "sys.path.insert(0, sys.argv[1]); import backends, orchestrator; del sys.path[0]; "
    "from orchestrator.broker.runtime.intake.reader import main; main()"
)
_ROOT = Path(__file__).resolve().parents[4]
_CHUNK_BYTES = 1 << 18
_START_TRIES = 3
_END_S = 2.0
_REASON_BYTES = 4096

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeLimits:
    """Limits for reading one payload; one that is large or needs more gets its own reader."""

    small_bytes: int = 1 << 16  # up to which payloads share a reader
    small_cpu_s: float = 0.5  # for each payload in the shared reader
    small_memory_bytes: int = 256 << 20  # of the shared reader
    cpu_s: float = 20.0  # for a payload with a reader of its own
    memory_bytes: int = 1 << 30  # of a reader for one payload
    at_once: int = 2  # readers for one payload, one for each user
    payloads: int = 10_000  # after which the shared reader is replaced
    watched_s: float = 60.0  # in which a user who ended the shared reader does not get it again


class _ReaderEnded(Exception):
    """A reader process was killed, or ended by itself, before it had answered."""


@dataclass(eq=False)
class Intake:
    """Reads payloads in other processes. Lives on one event loop; its first use starts it.

    A user has one payload at a time with a reader of its own, and users take turns, so that nobody
    waits for more than one payload of each other user.
    """

    limits: IntakeLimits = field(default_factory=IntakeLimits)
    _forks: subprocess.Popen[bytes] | None = None
    _errors: IO[bytes] | None = None  # what the process above writes to standard error
    _control: socket.socket | None = None
    _shared: _Reader | None = None
    _sharing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _per_user: PerUserSemaphore = field(default_factory=PerUserSemaphore)
    _numbers: Iterator[int] = field(default_factory=count)
    _watched: dict[str, float] = field(default_factory=dict)
    _alone: asyncio.Semaphore = field(init=False)
    _targets: dict[str, tuple[Target, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._alone = asyncio.Semaphore(self.limits.at_once)

    async def read(self, body: IO[bytes], user: str, qpu: str, target: Target) -> CheckedPayload:
        """Return a payload, checked against the target of its QPU.

        Raises `PayloadRejected` for an invalid payload and for one that takes too much to read,
        ``QpuUnavailable`` if no reader can be started.
        """
        size = body.seek(0, os.SEEK_END)
        described = self._described(qpu, target)
        if size <= self.limits.small_bytes and self._watched.get(user, 0.0) < time.monotonic():
            self._watched.pop(user, None)
            try:
                async with self._sharing:
                    return await self._read(body, size, described, alone=False)
            except _ReaderEnded:
                self._watched[user] = time.monotonic() + self.limits.watched_s
        async with self._per_user.place(user), self._alone:
            try:
                return await self._read(body, size, described, alone=True)
            except _ReaderEnded:
                raise PayloadRejected(
                    f"reading this payload of {size} bytes takes more than {self.limits.cpu_s:g} s "
                    f"or {self.limits.memory_bytes >> 20} MiB, or ends the process that reads it; "
                    "send smaller circuits, shorter parameter expressions or fewer PUBs at once"
                ) from None

    async def prewarm(self) -> None:
        """Begin to start the first reader, which takes seconds; returns at once."""
        await self._shared_reader()

    def close(self) -> None:
        """End all readers."""
        if self._shared is not None:
            self._shared.close()
        forks, self._forks = self._forks, None
        if self._control is not None:
            self._control.close()
        if forks is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                forks.wait(_END_S)
            forks.kill()
            forks.wait(_END_S)
        if self._errors is not None:
            self._errors.close()

    async def _read(
        self, body: IO[bytes], size: int, target: bytes, *, alone: bool
    ) -> CheckedPayload:
        """Read a payload, again if its reader was killed. Raises `_ReaderEnded` if it ended it."""
        for _ in range(_START_TRIES):
            reader = await (self._fork(alone=True) if alone else self._shared_reader())
            try:
                return await reader.read(body, size, target)
            except _ReaderEnded:
                if await self._ended_by_itself(reader):
                    raise
            finally:
                if alone:
                    reader.close()
        raise self._unavailable()

    async def _shared_reader(self) -> _Reader:
        reader = self._shared
        # The next answer of one that was interrupted would be another payload's.
        if reader is None or reader.is_reading or reader.answers >= self.limits.payloads:
            if reader is not None:
                reader.close()
            reader = self._shared = await self._fork(alone=False)
        return reader

    def _described(self, qpu: str, target: Target) -> bytes:
        known = self._targets.get(qpu)
        if known is None or known[0] is not target:
            known = target, json.dumps(target_to_json(target)).encode()
            self._targets[qpu] = known
        return known[1]

    async def _ended_by_itself(self, reader: _Reader) -> bool:
        """Whether its payload ended a reader: not if it was killed, or if their parent ended."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            try:
                self._ask({"ended": reader.number}, theirs)
                theirs.close()  # so that the line ends with the process that was asked
                answer = await asyncio.get_running_loop().sock_recv(ours, 1)
            except OSError:
                answer = b""
        if not answer and self._forks is not None:  # it ended, and cannot be asked again
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._forks.wait, _END_S)
        return answer == BY_ITSELF

    def _ask(self, request: dict[str, object], line: socket.socket) -> None:
        assert self._control is not None
        socket.send_fds(self._control, [json.dumps(request).encode()], [line.fileno()])

    @property
    def _has_ended(self) -> bool:
        """Whether the process that forks readers has ended."""
        return self._forks is None or self._forks.poll() is not None

    async def _fork(self, *, alone: bool) -> _Reader:
        limits = self.limits
        request: dict[str, object] = {
            "number": (number := next(self._numbers)),
            "alone": alone,
            "cpu_s": limits.cpu_s if alone else limits.small_cpu_s,
            "memory_bytes": limits.memory_bytes if alone else limits.small_memory_bytes,
        }
        for _ in range(_START_TRIES):
            if self._has_ended:
                self._start()
            ours, theirs = socket.socketpair()
            with theirs:
                try:
                    self._ask(request, theirs)
                except OSError:  # it ended this moment
                    ours.close()
                    continue
            lines = await asyncio.open_connection(sock=ours, limit=2 * _CHUNK_BYTES)
            return _Reader(*lines, number=number)
        raise self._unavailable()

    def _unavailable(self) -> QpuUnavailable:
        self._log_end()
        return QpuUnavailable("the broker cannot read payloads now; try again in a minute")

    def _log_end(self) -> None:
        """Log once why the process that forks readers ended, if it did."""
        if self._forks is None or self._errors is None or self._forks.poll() is None:
            return
        size = os.fstat(self._errors.fileno()).st_size
        reason = os.pread(self._errors.fileno(), _REASON_BYTES, max(0, size - _REASON_BYTES))
        self._errors.close()
        self._errors = None
        _log.error(
            "the process that reads payloads ended with exit status %d: %s",
            self._forks.returncode,
            reason.decode(errors="replace").strip() or "it wrote no reason",
        )

    def _start(self) -> None:
        self._log_end()
        if self._control is not None:
            self._control.close()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        with theirs:
            self._forks = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, str(_ROOT)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=True,
            )


@dataclass(eq=False)
class _Reader:
    """The connection to one reader process. answers: the number of payloads it has read."""

    incoming: asyncio.StreamReader
    outgoing: asyncio.StreamWriter
    number: int
    answers: int = 0
    is_reading: bool = False

    async def read(self, body: IO[bytes], size: int, target: bytes) -> CheckedPayload:
        """Return a checked payload. Raises `PayloadRejected`, `_ReaderEnded`."""
        self.is_reading = True
        try:
            self.outgoing.write(REQUEST.pack(len(target), size) + target)
            for chunk in _chunks(body):
                self.outgoing.write(chunk)
                await self.outgoing.drain()
            (length,) = ANSWER.unpack(await self.incoming.readexactly(ANSWER.size))
            parts = []
            while length:
                parts.append(await self.incoming.readexactly(min(length, _CHUNK_BYTES)))
                length -= len(parts[-1])
        except (OSError, asyncio.IncompleteReadError) as error:
            raise _ReaderEnded from error
        self.is_reading = False
        self.answers += 1
        if len(parts) == 1:
            return CheckedPayload.from_bytes(parts[0])
        return await asyncio.to_thread(lambda: CheckedPayload.from_bytes(b"".join(parts)))

    def close(self) -> None:
        """Close the connection, which ends the process."""
        self.outgoing.close()


def _chunks(body: IO[bytes]) -> Iterator[bytes]:
    body.seek(0)
    while chunk := body.read(_CHUNK_BYTES):
        yield chunk
