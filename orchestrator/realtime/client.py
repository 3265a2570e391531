"""A caller of a decoding server, which survives lost, late, foreign and malformed datagrams."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from orchestrator.realtime.sockets import wait_at_most
from orchestrator.realtime.wire import (
    CORRECTIONS,
    ENQUEUE,
    HEADER_BYTES,
    RESET,
    Malformed,
    Status,
    answer_of,
    bits_of,
    enqueue_payload,
    get_corrections_payload,
    request_bytes,
    reset_payload,
)

__all__ = ["CallRefused", "CallerCounts", "DecodingClient", "NoAnswer"]

_LARGEST_BYTES = 65_507
_MOST_IDS = 1 << 32
_NANO = 1e-9


class NoAnswer(Exception):
    """No answer came within the time-out: the request or its answer is lost or late."""


class CallRefused(Exception):
    """The server answered with a status other than OK."""

    def __init__(self, status: int) -> None:
        name = Status(status).name if status in set(Status) else "unknown"
        super().__init__(f"the decoding server answered with status {status} ({name})")
        self.status = status


@dataclass(slots=True, kw_only=True)
class CallerCounts:
    """What came back. stale: answers to earlier requests; unanswered: requests without an answer."""

    answered: int = 0
    stale: int = 0
    malformed: int = 0
    unanswered: int = 0


class DecodingClient:
    """Calls a decoding server, one round trip at a time. Answers are matched by their request's id.

    The socket is connected, so that the kernel drops datagrams from other addresses.
    """

    def __init__(self, host: str, port: int, *, decoder: int = 0, timeout_s: float = 5.0) -> None:
        self._decoder = decoder
        self._timeout_ns = round(timeout_s / _NANO)
        self._number = 0
        self._answer = bytearray(_LARGEST_BYTES)
        self._is_hurried = False  # the socket waits for less than the time-out
        self.counts = CallerCounts()
        family = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][0]
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.connect((host, port))
        wait_at_most(self._socket, timeout_s)

    def __enter__(self) -> DecodingClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def enqueue(self, bits: NDArray[np.uint8], tag: int = 0) -> None:
        """Send syndromes, 0 or 1 each. Raises `NoAnswer` or `CallRefused`."""
        self._call(ENQUEUE, enqueue_payload(self._decoder, bits, tag))

    def corrections(self, observables: int, *, reset: bool = True) -> NDArray[np.uint8]:
        """Return which observables flipped. Raises `NoAnswer` or `CallRefused`."""
        payload = get_corrections_payload(self._decoder, observables, reset=reset)
        end = self._call(CORRECTIONS, payload)
        if end - HEADER_BYTES != -(-observables // 8):
            raise CallRefused(Status.BAD_REQUEST)
        return bits_of(self._answer[HEADER_BYTES:end], observables)

    def reset(self) -> None:
        """Begin a new shot, whatever became of the last one. Raises `NoAnswer` or `CallRefused`."""
        self._call(RESET, reset_payload(self._decoder))

    def _call(self, function: int, payload: bytes) -> int:
        """Return the end of the answer, which lies in its place."""
        self._number = number = self._number % (_MOST_IDS - 1) + 1
        sent_ns = time.monotonic_ns()
        with suppress(OSError):  # an ICMP error of an earlier one: nobody listened there
            self._socket.send(request_bytes(function, number, payload, sent_ns))
        status, end = self._answer_to(number, sent_ns + self._timeout_ns)
        self.counts.answered += 1
        if status != Status.OK:
            raise CallRefused(status)
        return end

    def _answer_to(self, number: int, ends_ns: int) -> tuple[int, int]:
        """Return the status of the answer to a request, and its end."""
        counts, answer = self.counts, self._answer
        if self._is_hurried:
            wait_at_most(self._socket, self._timeout_ns * _NANO)
            self._is_hurried = False
        while True:
            try:
                status, found, end = answer_of(answer, self._socket.recv_into(answer))
                if found == number:
                    return status, end
                counts.stale += 1
            except Malformed:
                counts.malformed += 1
            except BlockingIOError:  # the kernel's word for a time-out
                pass
            except OSError:
                time.sleep(min(0.001, self._timeout_ns * _NANO))
            left_ns = ends_ns - time.monotonic_ns()
            if left_ns <= 0:
                counts.unanswered += 1
                raise NoAnswer(f"no answer within {self._timeout_ns * _NANO:g} s")
            wait_at_most(self._socket, left_ns * _NANO)
            self._is_hurried = True
