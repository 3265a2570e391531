"""A decoding server on a UDP port, and a server that only echoes, to compare with."""

from __future__ import annotations

import socket
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.realtime.sessions import Decoder, Session, answer
from orchestrator.realtime.wire import SLOT_BYTES, Malformed, request_of, response_bytes

__all__ = ["DecodingServer", "ServerCounts", "bound_socket", "echo"]

# Callers whose shots are kept; beyond, the one that was silent longest is forgotten.
_MOST_CALLERS = 64
_LOOK_S = 0.1
_BUFFER_BYTES = 4 << 20


@dataclass(slots=True, kw_only=True)
class ServerCounts:
    """What came in. malformed, too_large, unknown: datagrams without an answer."""

    requests: int = 0
    decoded: int = 0
    malformed: int = 0
    too_large: int = 0
    unknown: int = 0
    callers: int = 0
    unsent: int = 0


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a UDP socket on an address; port 0 is any free one. Raises OSError."""
    family = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][0]
    made = socket.socket(family, socket.SOCK_DGRAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    return made


class DecodingServer:
    """Answers calls in the order in which they come, each to the address that it came from.

    Every caller, by its address, has shots of its own: what others send does not spoil them, unless
    they come from so many addresses that a caller is forgotten. A datagram that is no request gets
    no answer, as with CUDA-Q's server.
    """

    def __init__(self, decoders: Mapping[int, Decoder], *, slot_bytes: int = SLOT_BYTES) -> None:
        self._decoders = dict(decoders)
        self._slot_bytes = slot_bytes
        self._callers: OrderedDict[object, dict[int, Session]] = OrderedDict()
        self.counts = ServerCounts()

    def serve(self, port: socket.socket, stop: threading.Event) -> None:
        """Answer until ``stop`` is set."""
        port.settimeout(_LOOK_S)
        size = self._slot_bytes + 1  # so that a larger datagram is recognised
        while not stop.is_set():
            try:
                message, caller = port.recvfrom(size)
            except TimeoutError:
                continue
            except OSError:  # an ICMP error of an earlier answer: its caller is gone
                continue
            self._handle(port, message, caller)

    def _handle(self, port: socket.socket, message: bytes, caller: Any) -> None:
        counts = self.counts
        if len(message) > self._slot_bytes:
            counts.too_large += 1
            return
        try:
            request = request_of(message, self._slot_bytes)
        except Malformed:
            counts.malformed += 1
            return
        found = answer(request, self._sessions(caller))
        if found is None:
            counts.unknown += 1
            return
        counts.requests += 1
        try:
            port.sendto(response_bytes(request, found.status, found.result), caller)
        except OSError:
            counts.unsent += 1
        if found.to_decode is not None:
            found.to_decode.decode()
            counts.decoded += 1

    def _sessions(self, caller: object) -> dict[int, Session]:
        sessions = self._callers.get(caller)
        if sessions is None:
            sessions = {number: Session(one) for number, one in self._decoders.items()}
            self._callers[caller] = sessions
            self.counts.callers += 1
            if len(self._callers) > _MOST_CALLERS:
                self._callers.popitem(last=False)
        else:
            self._callers.move_to_end(caller)
        return sessions


def echo(port: socket.socket, stop: threading.Event, *, slot_bytes: int = SLOT_BYTES) -> None:
    """Send every datagram back until ``stop`` is set: what the same socket costs without a server."""
    port.settimeout(_LOOK_S)
    while not stop.is_set():
        try:
            message, caller = port.recvfrom(slot_bytes + 1)
            port.sendto(message, caller)
        except OSError:
            continue
