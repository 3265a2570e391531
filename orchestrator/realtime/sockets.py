"""UDP sockets as real-time calls need them: one system call for each datagram."""

from __future__ import annotations

import contextlib
import socket
import struct

__all__ = ["bound_socket", "lost_by_kernel", "wait_at_most"]

_BUFFER_BYTES = 4 << 20
# Of Linux: memory and losses of a socket, nine numbers of 32 bits, of which the last are losses.
_SO_MEMINFO, _MEMINFO, _DROPS = 55, struct.Struct("9I"), 8


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


def wait_at_most(port: socket.socket, seconds: float) -> None:
    """Bound the time of a receive by the kernel; Python's own bound costs a system call each time."""
    port.settimeout(None)
    whole = int(seconds)
    micros = max(1, int((seconds - whole) * 1e6))  # zero would be for ever
    port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", whole, micros))


def lost_by_kernel(port: socket.socket) -> int:
    """Return how many datagrams the kernel dropped for want of room; 0 where it does not say."""
    with contextlib.suppress(OSError, struct.error):
        told = port.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        return int(_MEMINFO.unpack(told)[_DROPS])
    return 0
