"""Messages between hpcqc and a backend's process: a length, a JSON header, binary frames.

A message is ``HPQC``, its length as 8 bytes (little endian) and a container as
`backends.frames.pack` makes it. The child begins with a greeting that states the versions of this
protocol that it speaks; hpcqc answers with ``open``, which names the backend and holds its options.
Afterwards each request has an ``id`` and each answer repeats it, in any order.
"""

from __future__ import annotations

import os
import select
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from backends.frames import FrameError, pack, unpack

__all__ = ["MOST_BYTES", "PROTOCOL", "Line", "LineClosed", "LineGarbled", "LineStuck", "Message"]

# Versions of the protocol; raised when a request or answer changes its meaning.
PROTOCOL = 1
# No result is larger, so a longer message is garbage.
MOST_BYTES = 1 << 31

_HEAD = struct.Struct("<4sQ")
_MAGIC = b"HPQC"
_CHUNK = 1 << 20
_SHOWN_BYTES = 120

Message = tuple[dict[str, Any], list[bytes]]


class LineClosed(Exception):
    """The process at the other end is gone."""


class LineGarbled(Exception):
    """What came is no message; the text shows its beginning."""


class LineStuck(Exception):
    """The other end did not read in time, and part of a message is written."""


class Line:
    """Both directions of a pipe. One thread at a time may receive; any number may send."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._sending = threading.Lock()
        self._closed = False
        os.set_blocking(write, False)

    def send(
        self, header: Mapping[str, Any], frames: Sequence[bytes] = (), *, timeout_s: float
    ) -> None:
        """Write one message.

        Raises:
            LineClosed: The other end is gone.
            LineStuck: It did not read everything within ``timeout_s``; the line is useless then.
        """
        body = pack(header, frames)
        data = memoryview(_HEAD.pack(_MAGIC, len(body)) + body)
        deadline = time.monotonic() + timeout_s
        if not self._sending.acquire(timeout=timeout_s):
            raise LineStuck
        try:
            if self._closed:
                raise LineClosed
            while data:
                data = data[self._written(data, deadline) :]
        finally:
            self._sending.release()

    def receive(self) -> Message:
        """Block until a message has come.

        Raises:
            LineClosed: The other end is gone.
            LineGarbled: Bytes came that are no message.
        """
        head = self._at_most(_HEAD.size)
        if not _MAGIC.startswith(head[: len(_MAGIC)]):
            raise LineGarbled(_shown(head + self._at_hand()))
        if len(head) < _HEAD.size:
            raise LineClosed
        size = _HEAD.unpack(head)[1]
        if size > MOST_BYTES:
            raise LineGarbled(_shown(head))
        body = self._at_most(size)
        if len(body) < size:
            raise LineClosed
        try:
            header, frames = unpack(body)
        except (FrameError, ValueError) as error:
            raise LineGarbled(f"{_shown(body)} ({error})") from error
        if not isinstance(header, dict):
            raise LineGarbled(_shown(body))
        return header, frames

    def readable(self, timeout_s: float) -> bool:
        """Wait until something has come, or the other end is gone; False after ``timeout_s``."""
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def close(self) -> None:
        """Close both directions; while no other thread receives."""
        with self._sending:
            if not self._closed:
                self._closed = True
                os.close(self._read)
                os.close(self._write)

    def _written(self, data: memoryview, deadline: float) -> int:
        try:
            return os.write(self._write, data[:_CHUNK])
        except BlockingIOError:
            poll = select.poll()
            poll.register(self._write, select.POLLOUT)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise LineStuck from None
            return 0
        except OSError as error:
            raise LineClosed from error

    def _at_most(self, size: int) -> bytes:
        """Read so many bytes, fewer if the other end is gone."""
        data = bytearray()
        while len(data) < size:
            try:
                chunk = os.read(self._read, min(size - len(data), _CHUNK))
            except OSError as error:
                raise LineClosed from error
            if not chunk:
                break
            data += chunk
        return bytes(data)

    def _at_hand(self) -> bytes:
        return os.read(self._read, _SHOWN_BYTES) if self.readable(0.0) else b""


def _shown(data: bytes) -> str:
    return repr(data[:_SHOWN_BYTES])
