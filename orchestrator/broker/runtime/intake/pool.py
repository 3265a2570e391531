"""Hands payloads from strangers to reader processes, and survives them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
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


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeLimits:
    """What reading one payload may take.

    small_bytes: up to this size payloads share a reader that is there already; it is given
    small_cpu_s and small_memory_bytes for each. Larger ones, and those that took more, get a reader of
    their own with cpu_s and memory_bytes; at_once: so many of these at a time, one for each user.
    payloads: so many are read before the shared reader is replaced.
    watched_s: so long a user who ended the shared reader does not get it again.
    """

    small_bytes: int = 1 << 16
    small_cpu_s: float = 0.5
    small_memory_bytes: int = 256 << 20
    cpu_s: float = 20.0
    memory_bytes: int = 1 << 30
    at_once: int = 2
    payloads: int = 10_000
    watched_s: float = 60.0


class _ReaderEnded(Exception):
    """A reader process was killed, or ended by itself, before it had answered."""


@dataclass(eq=False)
class Intake:
    """Reads payloads in other processes. Lives on one event loop; its first use starts it.

    A user has one payload at a time with a reader of its own, and users take turns, so that none
    waits for more than one payload of each other.
    """

    limits: IntakeLimits = field(default_factory=IntakeLimits)
    _forks: subprocess.Popen[bytes] | None = None
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
        """Return what a payload holds, checked against the target of the QPU it is meant for.

        Raises `PayloadRejected` for what no payload is, and for what takes too much to read;
        ``QpuUnavailable`` if no reader can be started.
        """
        size = body.seek(0, os.SEEK_END)
        described = self._described(qpu, target)
        if size <= self.limits.small_bytes and not self._is_watched(user):
            try:
                return await self._read_shared(body, size, described)
            except _ReaderEnded:
                self._watched[user] = time.monotonic() + self.limits.watched_s
        async with self._per_user.place(user), self._alone:
            return await self._read_alone(body, size, described)

    async def prewarm(self) -> None:
        """Begin to start the first reader, which takes seconds; returns at once."""
        if self._shared is None:
            self._shared = await self._fork(alone=False)

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

    async def _read_shared(self, body: IO[bytes], size: int, target: bytes) -> CheckedPayload:
        async with self._sharing:
            for _ in range(_START_TRIES):
                reader = self._shared
                if reader is None or reader.answers >= self.limits.payloads:
                    if reader is not None:
                        reader.close()
                    reader = self._shared = await self._fork(alone=False)
                try:
                    return await reader.read(body, size, target)
                except PayloadRejected:
                    raise
                except BaseException as error:  # the next answer would be another's
                    reader.close()
                    self._shared = None
                    if isinstance(error, _ReaderEnded) and not await self._is_to_blame(reader):
                        continue
                    raise
            raise _unavailable()

    async def _read_alone(self, body: IO[bytes], size: int, target: bytes) -> CheckedPayload:
        for _ in range(_START_TRIES):
            reader = await self._fork(alone=True)
            try:
                return await reader.read(body, size, target)
            except _ReaderEnded:
                if await self._is_to_blame(reader):
                    raise self._rejection(size) from None
            finally:
                reader.close()
        raise _unavailable()

    def _rejection(self, size: int) -> PayloadRejected:
        limits = self.limits
        return PayloadRejected(
            f"reading this payload of {size} bytes takes more than {limits.cpu_s:g} s or "
            f"{limits.memory_bytes >> 20} MiB, or ends the process that reads it; send smaller "
            "circuits, shorter parameter expressions or fewer PUBs at once"
        )

    def _is_watched(self, user: str) -> bool:
        until = self._watched.get(user)
        if until is not None and until < time.monotonic():
            del self._watched[user]
            return False
        return until is not None

    def _described(self, qpu: str, target: Target) -> bytes:
        known = self._targets.get(qpu)
        if known is None or known[0] is not target:
            known = target, json.dumps(target_to_json(target)).encode()
            self._targets[qpu] = known
        return known[1]

    async def _is_to_blame(self, reader: _Reader) -> bool:
        """Whether a reader ended by what it read: not if it was killed, or what forks them is gone."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            try:
                self._ask({"ended": reader.number}, theirs)
                theirs.close()  # so that the line ends with the process that was asked
                answer = await asyncio.get_running_loop().sock_recv(ours, 1)
            except OSError:
                answer = b""
        if not answer and self._forks is not None:  # gone: nothing is to be asked of it again
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._forks.wait, _END_S)
        return answer == BY_ITSELF

    def _ask(self, request: dict[str, object], line: socket.socket) -> None:
        assert self._control is not None
        socket.send_fds(self._control, [json.dumps(request).encode()], [line.fileno()])

    @property
    def _has_ended(self) -> bool:
        """Whether the process that forks readers is known to be gone."""
        return self._forks is None or self._forks.poll() is not None

    async def _fork(self, *, alone: bool) -> _Reader:
        limits = self.limits
        stated: dict[str, object] = {
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
                    self._ask(stated, theirs)
                except OSError:  # it ended this moment
                    ours.close()
                    continue
            lines = await asyncio.open_connection(sock=ours, limit=2 * _CHUNK_BYTES)
            return _Reader(*lines, number=number)
        raise _unavailable()

    def _start(self) -> None:
        if self._control is not None:
            self._control.close()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._forks = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, str(_ROOT)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )


@dataclass(eq=False)
class _Reader:
    """The line to one reader process. answers: so many it has given."""

    incoming: asyncio.StreamReader
    outgoing: asyncio.StreamWriter
    number: int
    answers: int = 0

    async def read(self, body: IO[bytes], size: int, target: bytes) -> CheckedPayload:
        """Have a payload read. Raises `PayloadRejected`, `_ReaderEnded`."""
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
        self.answers += 1
        if len(parts) == 1:
            return CheckedPayload.from_bytes(parts[0])
        return await asyncio.to_thread(lambda: CheckedPayload.from_bytes(b"".join(parts)))

    def close(self) -> None:
        """Let the process go; what it works on is not wanted any more."""
        self.outgoing.close()


def _chunks(body: IO[bytes]) -> Iterator[bytes]:
    body.seek(0)
    while chunk := body.read(_CHUNK_BYTES):
        yield chunk


def _unavailable() -> QpuUnavailable:
    return QpuUnavailable("the broker cannot read payloads now; try again in a minute")
