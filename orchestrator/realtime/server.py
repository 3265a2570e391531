"""A decoding server on a UDP port, and a server that only echoes, to compare with."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.realtime.sessions import CALLS, Decoder, ShotTable
from orchestrator.realtime.sockets import lost_by_kernel, wait_at_most
from orchestrator.realtime.wire import (
    HEADER_BYTES,
    SLOT_BYTES,
    Malformed,
    Status,
    answer_head,
    call_of,
)

__all__ = ["DecodingServer", "ServerCounts", "echo"]

_LOOK_S = 0.1
_MOST_TIMES = 1 << 16  # of decoded shots; the earliest are forgotten beyond


@dataclass(slots=True, kw_only=True)
class ServerCounts:
    """What came in.

    requests: calls that were answered, of which bad, invalid, busy, not_ready and failed had another
    status than OK (BAD_REQUEST, INVALID_DECODER, BUSY, NOT_READY, INTERNAL_ERROR). repeated: answered
    ones with the id of their caller's last call. sessions: callers who began to send shots. decoded: shots.
    short, foreign, truncated, too_large, unknown: datagrams without an answer: less than a header,
    another magic, less than the header says, more than a slot, another function. unsent: answers.
    dropped: datagrams that the kernel had no room for (Linux).
    """

    requests: int = 0
    decoded: int = 0
    sessions: int = 0
    bad: int = 0
    invalid: int = 0
    busy: int = 0
    not_ready: int = 0
    failed: int = 0
    repeated: int = 0
    short: int = 0
    foreign: int = 0
    truncated: int = 0
    too_large: int = 0
    unknown: int = 0
    unsent: int = 0
    dropped: int = 0

    @property
    def malformed(self) -> int:
        """Datagrams that are no request."""
        return self.short + self.foreign + self.truncated


_COUNTED_AS = {
    Status.BAD_REQUEST: "bad",
    Status.INVALID_DECODER: "invalid",
    Status.BUSY: "busy",
    Status.NOT_READY: "not_ready",
    Status.INTERNAL_ERROR: "failed",
}


class DecodingServer:
    """Answers calls in the order in which they come, each to the address that it came from.

    Every caller, by its address, has shots of its own: what others send does not spoil them. A
    datagram that is no request gets no answer, as with CUDA-Q's server.
    """

    def __init__(self, decoders: Mapping[int, Decoder], *, slot_bytes: int = SLOT_BYTES) -> None:
        self._table = ShotTable(decoders)
        self._slot_bytes = slot_bytes
        self._message = bytearray(slot_bytes + 1)  # so that a larger datagram is recognised
        self._answer = bytearray(HEADER_BYTES)
        self._decoding_ns: deque[int] = deque(maxlen=_MOST_TIMES)
        self.counts = ServerCounts()

    def decoding_us(self) -> dict[str, float]:
        """Return quantiles of the time that the decoder itself took for each shot; empty before one."""
        if not self._decoding_ns:
            return {}
        found = np.quantile(list(self._decoding_ns), (0.5, 0.9, 0.99, 1.0)) / 1000
        return dict(zip(("p50", "p90", "p99", "max"), found.tolist(), strict=True))

    def serve(self, port: socket.socket, stop: threading.Event) -> None:
        """Answer until ``stop`` is set."""
        wait_at_most(port, _LOOK_S)
        while not stop.is_set():
            try:
                size, caller = port.recvfrom_into(self._message)
            except (
                OSError
            ):  # nothing came, or an ICMP error of an earlier answer: its caller is gone
                continue
            self._handle(port, size, caller)
        self.counts.sessions, self.counts.repeated = self._table.opened, self._table.repeated
        self.counts.dropped = lost_by_kernel(port)

    def _handle(self, port: socket.socket, size: int, caller: Any) -> None:
        counts, message = self.counts, self._message
        if size > self._slot_bytes:
            counts.too_large += 1
            return
        try:
            function, end = call_of(message, size)
        except Malformed as error:
            setattr(counts, error.fault, getattr(counts, error.fault) + 1)
            return
        if function not in CALLS:
            counts.unknown += 1
            return
        found = self._table.answer(caller, function, message, end, time.monotonic())
        answer = self._answer
        answer_head(answer, message, found.status, len(found.result))
        try:
            port.sendto(answer + found.result if found.result else answer, caller)
        except OSError:
            counts.unsent += 1
        self._count(found.status)
        if found.to_decode is not None:
            start = time.perf_counter_ns()
            found.to_decode.decode()
            self._decoding_ns.append(time.perf_counter_ns() - start)
            counts.decoded += 1

    def _count(self, status: Status) -> None:
        """Count a call after its answer has been sent, which is not held up."""
        counts = self.counts
        counts.requests += 1
        if status is not Status.OK:
            name = _COUNTED_AS[status]
            setattr(counts, name, getattr(counts, name) + 1)


def echo(port: socket.socket, stop: threading.Event, *, slot_bytes: int = SLOT_BYTES) -> None:
    """Send every datagram back until ``stop`` is set: what the same socket costs without a server."""
    wait_at_most(port, _LOOK_S)
    place = bytearray(slot_bytes + 1)
    whole = memoryview(place)
    while not stop.is_set():
        try:
            size, caller = port.recvfrom_into(place)
            port.sendto(whole[:size], caller)
        except OSError:
            continue
