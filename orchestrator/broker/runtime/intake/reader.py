"""The process that imports Qiskit once and forks readers of untrusted payloads.

A fork takes milliseconds, the import seconds. The system limits a reader's memory, CPU time and stack,
and kills it beyond them. A reader has no file, ledger or secret of the broker open, only the
connection on which payloads come.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import socket
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from backends.api import PayloadRejected, Target
from backends.payloads import Payload, PayloadLimits, load_kinds, payload_from_untrusted
from backends.targets import target_from_json
from orchestrator.broker.runtime.checked_payload import CheckedPayload, rejected

__all__ = ["ANSWER", "BY_ITSELF", "KILLED", "REQUEST", "main"]

# Lengths before a request: of the target's JSON and of the payload; and before an answer.
REQUEST = struct.Struct("<QQ")
ANSWER = struct.Struct("<Q")
# Half of what the threads of the service have: what is read in it, they can read.
_STACK_BYTES = 4 << 20
_NICENESS = 10
_LIMITS = PayloadLimits()
# Answers about a reader that ended. The kernel kills where memory is short, whoever took it.
BY_ITSELF, KILLED = b"1", b"0"
_FAULTS_KEPT = 100
_KILLED_WITH = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)


def main() -> None:
    """Fork readers until the parent ends. Standard input is the connection to the parent.

    A request is JSON with one file descriptor: a reader's number and limits with its connection, or
    the number of one that ended, with the connection on which to answer whether by itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    control = socket.socket(fileno=0)
    readers = _Readers()
    load_kinds()
    gc.collect()
    gc.freeze()  # what is imported stays shared between the readers
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1024, 1)
        if not message:
            return
        (line,) = descriptors
        request = json.loads(message)
        readers.reap()
        if "ended" in request:
            with socket.socket(fileno=line) as answer, contextlib.suppress(OSError):
                answer.sendall(BY_ITSELF if readers.ended_by_itself(request["ended"]) else KILLED)
            continue
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                control.close()
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the parent reads standard error
                _serve(socket.socket(fileno=line), request)
                status = 0
            finally:
                os._exit(status)
        os.close(line)
        readers.pids[request["number"]] = pid


@dataclass(slots=True)
class _Readers:
    """Process ids of the readers by number, and exit statuses of those that failed."""

    pids: dict[int, int] = field(default_factory=dict)
    faults: dict[int, int] = field(default_factory=dict)

    def reap(self) -> None:
        """Collect the exit statuses of those that ended."""
        for number, pid in tuple(self.pids.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self.pids[number]
                if status:
                    self.faults[number] = status
        while len(self.faults) > _FAULTS_KEPT:  # of clients that did not wait for the answer
            del self.faults[next(iter(self.faults))]

    def ended_by_itself(self, number: int) -> bool:
        """Whether a reader, whose connection is closed, failed without being killed."""
        status = self.faults.pop(number, 0)
        if number in self.pids:
            _, status = os.waitpid(self.pids.pop(number), 0)
        return bool(status) and os.waitstatus_to_exitcode(status) not in _KILLED_WITH


def _serve(line: socket.socket, limits: dict[str, Any]) -> None:
    """Answer payloads until the parent closes the connection."""
    _limit(limits)
    with line, line.makefile("rb") as incoming:
        while len(head := incoming.read(REQUEST.size)) == REQUEST.size:
            target_size, size = REQUEST.unpack(head)
            target, data = incoming.read(target_size), incoming.read(size)
            if len(data) < size:
                return
            # Of CPU time, and it kills: a library's loop cannot be interrupted.
            signal.setitimer(signal.ITIMER_PROF, limits["cpu_s"])
            answer = _answer(target, data)
            signal.setitimer(signal.ITIMER_PROF, 0)
            line.sendall(ANSWER.pack(len(answer)))
            line.sendall(answer)


def _limit(limits: dict[str, Any]) -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + limits["memory_bytes"]
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (_STACK_BYTES, hard))
    if limits["alone"]:
        whole = int(limits["cpu_s"]) + 1
        # The soft limit kills with another signal than SIGKILL.
        resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))
        os.nice(_NICENESS)


def _answer(target: bytes, data: bytes) -> bytes:
    """Return the answer to a payload, or raise ``MemoryError``, which ends this reader."""
    try:
        payload = payload_from_untrusted(data, limits=_LIMITS)
        return _checked(payload, _target(target)).to_bytes()
    except ValueError as error:  # PayloadRejected is one
        if isinstance(error.__cause__, MemoryError):
            raise error.__cause__ from None  # earlier payloads may have taken the memory
        return rejected(str(error))


def _checked(payload: Payload, target: Target) -> CheckedPayload:
    try:
        return CheckedPayload.of(payload, target)
    except (MemoryError, PayloadRejected):
        raise
    except Exception as error:  # a kind may be another package's
        reason = f"payload kind {payload.kind!r} fails to check this payload: "
        raise PayloadRejected(f"{reason}{type(error).__name__}: {error}"[:500]) from error


@lru_cache(maxsize=16)
def _target(data: bytes) -> Target:
    return target_from_json(json.loads(data))
