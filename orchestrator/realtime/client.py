"""A caller of a decoding server, which survives lost, late, foreign and malformed datagrams."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from orchestrator.realtime.wire import (
    CORRECTIONS,
    ENQUEUE,
    RESET,
    Malformed,
    Response,
    Status,
    bits_of,
    enqueue_payload,
    get_corrections_payload,
    request_bytes,
    reset_payload,
    response_of,
)

__all__ = ["CallRefused", "CallerCounts", "DecodingClient", "NoAnswer"]

_LARGEST_BYTES = 65_507
_MOST_IDS = 1 << 32


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
        self._timeout_s = timeout_s
        self._number = 0
        self.counts = CallerCounts()
        family = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][0]
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.connect((host, port))

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
        found = self._call(CORRECTIONS, payload)
        if len(found.result) != -(-observables // 8):
            raise CallRefused(Status.BAD_REQUEST)
        return bits_of(found.result, observables)

    def reset(self) -> None:
        """Begin a new shot, whatever became of the last one. Raises `NoAnswer` or `CallRefused`."""
        self._call(RESET, reset_payload(self._decoder))

    def _call(self, function: int, payload: bytes) -> Response:
        self._number = self._number % (_MOST_IDS - 1) + 1
        ends = time.monotonic() + self._timeout_s
        with suppress(OSError):  # an ICMP error of an earlier one: nobody listened there
            self._socket.send(request_bytes(function, self._number, payload, time.monotonic_ns()))
        while (left := ends - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                found = response_of(self._socket.recv(_LARGEST_BYTES))
            except (TimeoutError, BlockingIOError):
                break
            except OSError:
                time.sleep(min(left, 0.001))
                continue
            except Malformed:
                self.counts.malformed += 1
                continue
            if found.id != self._number:
                self.counts.stale += 1
                continue
            self.counts.answered += 1
            if found.status != Status.OK:
                raise CallRefused(found.status)
            return found
        self.counts.unanswered += 1
        raise NoAnswer(f"no answer within {self._timeout_s:g} s")
