"""Length-prefixed messages between the backend and its worker processes."""

from __future__ import annotations

import socket
import struct
from dataclasses import asdict, dataclass, field
from typing import Any

from backends.aer.blocks import PubBlock
from backends.frames import pack
from backends.payloads import PubPayload

__all__ = ["TaskMessage", "encode_task", "receive", "send"]

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMessage:
    """One task as a worker gets it; methods and seeds are per PUB, blocks per part."""

    tag: str
    payload: PubPayload
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    blocks: tuple[tuple[PubBlock, ...], ...] = ()
    threads: int = 1
    facts: dict[str, Any] = field(default_factory=dict)


def encode_task(message: TaskMessage, part: int) -> bytes:
    """Encode a whole task, so that the worker of one part can finish all if the parent dies."""
    header = {
        "tag": message.tag,
        "part": part,
        "methods": message.methods,
        "seeds": message.seeds,
        "blocks": [[asdict(block) for block in blocks] for blocks in message.blocks],
        "threads": message.threads,
        "facts": message.facts,
    }
    return pack(header, [message.payload.to_bytes()])


def send(connection: socket.socket, message: bytes) -> None:
    """Send one message; raises ``OSError`` when the other end is gone."""
    connection.sendall(_LENGTH.pack(len(message)) + message)


def receive(connection: socket.socket) -> bytes | None:
    """Return the next message, or None when the other end is gone."""
    try:
        head = _read(connection, _LENGTH.size)
        return _read(connection, _LENGTH.unpack(head)[0]) if head else None
    except OSError:
        return None


def _read(connection: socket.socket, size: int) -> bytes | None:
    """Read exactly ``size`` bytes; None when fewer come."""
    first = connection.recv(size)
    if len(first) == size:
        return first
    if not first and size:
        return None
    data = bytearray(first)
    while len(data) < size:
        chunk = connection.recv(min(size - len(data), 1 << 20))
        if not chunk:
            return None
        data += chunk
    return bytes(data)
