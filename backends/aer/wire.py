"""Length-prefixed messages between the backend and its worker processes."""

from __future__ import annotations

import json
import socket
import struct
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from backends.aer.blocks import PubBlock
from backends.frames import frame_from_array, pack
from backends.payloads import FrozenEstimatorPub, FrozenSamplerPub, Payload

__all__ = ["CircuitMemory", "TaskMessage", "encode_task", "receive", "send"]

_LENGTH = struct.Struct("<Q")
_CIRCUITS = 512


class CircuitMemory:
    """The digests of the circuits a worker holds; both ends keep one and stay in step.

    They evict alike because they see the same digests in the same order.
    """

    def __init__(self, capacity: int = _CIRCUITS) -> None:
        self._capacity = capacity
        self._held: OrderedDict[str, Any] = OrderedDict()

    def __contains__(self, digest: str) -> bool:
        return digest in self._held

    def __getitem__(self, digest: str) -> Any:
        return self._held[digest]

    def use(self, digests: Sequence[str]) -> None:
        """Mark circuits as just used, then forget the oldest beyond the capacity.

        A task may use more circuits than the capacity; the surplus goes after the task.
        """
        for digest in digests:
            self._held.move_to_end(digest)
        while len(self._held) > max(self._capacity, len(digests)):
            self._held.popitem(last=False)

    def add(self, digest: str, value: Any = None) -> None:
        """Hold a circuit; `use` decides later what goes."""
        self._held[digest] = value


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMessage:
    """One task as a worker gets it.

    methods, seeds: one per PUB. blocks: of each part. facts: kept with the result.
    """

    tag: str
    payload: Payload
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    blocks: tuple[tuple[PubBlock, ...], ...] = ()
    threads: int = 1
    facts: dict[str, Any] = field(default_factory=dict)


def encode_task(message: TaskMessage, part: int, memory: CircuitMemory) -> bytes:
    """Return the message that makes a worker run a part of a task.

    It carries the whole task, so that the worker can finish the other parts too if the
    parent dies; circuits the worker holds already are left out. Updates ``memory``.
    """
    digests = list(dict.fromkeys(pub.circuit.digest for pub in message.payload.pubs))
    missing: dict[str, bytes] = {}
    for circuit in (pub.circuit for pub in message.payload.pubs):
        if circuit.digest not in memory:
            missing[circuit.digest] = circuit.qpy
            memory.add(circuit.digest)
    memory.use(digests)
    entries, frames = [], list(missing.values())
    pubs: Sequence[FrozenSamplerPub | FrozenEstimatorPub] = message.payload.pubs
    for pub, method, seed in zip(pubs, message.methods, message.seeds, strict=True):
        entry, frame = frame_from_array(pub.values)
        frames.append(frame)
        entries.append(
            {
                "circuit": pub.circuit.digest,
                "values": entry,
                "method": method,
                "seed": seed,
                **_fields(pub),
            }
        )
        if isinstance(pub, FrozenEstimatorPub):
            frames.append(json.dumps(pub.observables).encode())
    header = {
        "tag": message.tag,
        "part": part,
        "blocks": [[asdict(block) for block in blocks] for blocks in message.blocks],
        "threads": message.threads,
        "kind": message.payload.kind,
        "circuits": digests,
        "missing": list(missing),
        "pubs": entries,
        "facts": message.facts,
    }
    return pack(header, frames)


def _fields(pub: FrozenSamplerPub | FrozenEstimatorPub) -> dict[str, Any]:
    if isinstance(pub, FrozenSamplerPub):
        return {"shots": pub.shots}
    return {"precision": pub.precision}


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
