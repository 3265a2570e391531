"""A decoding session: what one caller sends for one decoder, and what it gets back (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from orchestrator.realtime.wire import (
    CORRECTIONS,
    ENQUEUE,
    RESET,
    Malformed,
    Request,
    Status,
    bytes_of,
    decoder_of,
    enqueue_of,
    get_corrections_of,
)

__all__ = ["CallAnswer", "Decoder", "Session", "State", "answer"]

State = Literal["collecting", "full", "ready", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """What decodes a shot.

    decode: takes syndromes (syndromes,), 0 or 1 each, and returns which observables flipped
    (observables,), or raises. title: for people.
    """

    syndromes: int
    observables: int
    decode: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallAnswer:
    """An answer to a call. to_decode: the session whose shot has become complete."""

    status: Status
    result: bytes = b""
    to_decode: Session | None = None


class Session:
    """The shot that one caller is sending to one decoder."""

    __slots__ = ("_corrections", "_count", "_decoder", "_state", "_syndromes")

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._syndromes = np.zeros(decoder.syndromes, dtype=np.uint8)
        self._count = 0
        self._state: State = "collecting"
        self._corrections = np.zeros(decoder.observables, dtype=np.uint8)

    @property
    def state(self) -> State:
        """collecting; full: complete, but not decoded; ready: decoded; failed: until a reset."""
        return self._state

    def enqueue(self, bits: NDArray[np.uint8]) -> bool:
        """Take syndromes in; return whether the shot is complete. Too many make it fail."""
        end = self._count + len(bits)
        if self._state != "collecting" or end > self._decoder.syndromes:
            self._state = "failed"
            return False
        self._syndromes[self._count : end] = bits
        self._count = end
        if end == self._decoder.syndromes:
            self._state = "full"
        return self._state == "full"

    def spoil(self) -> None:
        """Make the shot fail: syndromes came that cannot be read."""
        self._state = "failed"

    def decode(self) -> None:
        """Decode a complete shot; whatever the decoder raises makes it fail."""
        if self._state != "full":
            return
        try:
            self._corrections = self._decoder.decode(self._syndromes)
        except Exception:  # noqa: BLE001 - a decoder is a plug-in, and the server goes on
            self._state = "failed"
        else:
            self._state = "ready"

    def corrections(self, observables: int, *, reset: bool) -> CallAnswer:
        """Return the corrections of a decoded shot."""
        if observables != self._decoder.observables:
            return CallAnswer(status=Status.BAD_REQUEST)
        if self._state == "failed":
            return CallAnswer(status=Status.INTERNAL_ERROR)
        if self._state != "ready":
            return CallAnswer(status=Status.NOT_READY)
        result = bytes_of(self._corrections)
        if reset:
            self.reset()
        return CallAnswer(status=Status.OK, result=result)

    def reset(self) -> None:
        """Begin a new shot."""
        self._state = "collecting"
        self._count = 0


def answer(request: Request, sessions: Mapping[int, Session]) -> CallAnswer | None:
    """Carry a call out on a caller's sessions, by decoder id; None for an unknown function.

    A shot that becomes complete is left for the caller of this function to decode, after the answer
    has been sent: the call only says that the syndromes were taken in.
    """
    if request.function not in (ENQUEUE, CORRECTIONS, RESET):
        return None
    try:
        session = sessions.get(decoder_of(request.payload))
    except Malformed:
        return CallAnswer(status=Status.BAD_REQUEST)
    if session is None:
        return CallAnswer(status=Status.INVALID_DECODER)
    try:
        if request.function == ENQUEUE:
            is_complete = session.enqueue(enqueue_of(request.payload).bits)
            return CallAnswer(status=Status.OK, to_decode=session if is_complete else None)
        if request.function == CORRECTIONS:
            asked = get_corrections_of(request.payload)
            return session.corrections(asked.observables, reset=asked.reset)
    except Malformed:
        if request.function == ENQUEUE:
            session.spoil()
        return CallAnswer(status=Status.BAD_REQUEST)
    if len(request.payload) != 8:
        return CallAnswer(status=Status.BAD_REQUEST)
    session.reset()
    return CallAnswer(status=Status.OK)
