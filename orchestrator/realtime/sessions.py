"""Decoding sessions: what callers send for decoders, and what they get back (pure)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from orchestrator.realtime.wire import (
    CORRECTIONS,
    ENQUEUE,
    HEADER_BYTES,
    REQUEST_ID,
    RESET,
    Buffer,
    Malformed,
    Status,
    bits_of,
    bytes_of,
    decoder_of,
    enqueue_of,
    get_corrections_of,
)

__all__ = [
    "CALLS",
    "KEPT_S",
    "MOST_SESSIONS",
    "CallAnswer",
    "Decoder",
    "Session",
    "ShotTable",
    "State",
]

State = Literal["collecting", "full", "ready", "failed"]

CALLS = frozenset((ENQUEUE, CORRECTIONS, RESET))
MOST_SESSIONS = 64
# How long a caller may be silent before another one gets its place, if there is no other.
KEPT_S = 10.0
_RESET_END = HEADER_BYTES + 8


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


# Made once, because a call takes microseconds.
_OF_STATUS = {status: CallAnswer(status=status) for status in Status}
_OK, _BAD = _OF_STATUS[Status.OK], _OF_STATUS[Status.BAD_REQUEST]


class Session:
    """The shot that one caller is sending to one decoder."""

    __slots__ = ("_corrections", "_count", "_decoder", "_state", "_syndromes", "last_id", "seen_s")

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._syndromes = 0  # as the bits of a number, which is cheaper than an array to add to
        self._count = 0
        self._state: State = "collecting"
        self._corrections = b""
        self.seen_s = 0.0
        self.last_id: Buffer = b""

    @property
    def state(self) -> State:
        """collecting; full: complete, but not decoded; ready: decoded; failed: until a reset."""
        return self._state

    def answer(self, function: int, message: Buffer, end: int) -> CallAnswer:
        """Carry one of `CALLS` out.

        A shot that becomes complete is left for the caller of this method to decode, after the answer
        has been sent: the call only says that the syndromes were taken in.
        """
        try:
            if function == ENQUEUE:
                return self._enqueue(*enqueue_of(message, end))
            if function == CORRECTIONS:
                return self._answer_corrections(*get_corrections_of(message, end))
        except Malformed:
            if function == ENQUEUE:
                self._state = "failed"
            return _BAD
        if end != _RESET_END:
            return _BAD
        self._reset()
        return _OK

    def decode(self) -> None:
        """Decode a complete shot; whatever the decoder raises makes it fail."""
        if self._state != "full":
            return
        size = self._count
        syndromes = bits_of(self._syndromes.to_bytes((size + 7) >> 3, "little"), size)
        try:
            self._corrections = bytes_of(self._decoder.decode(syndromes))
        except Exception:  # noqa: BLE001 - a decoder is a plug-in, and the server goes on
            self._state = "failed"
        else:
            self._state = "ready"

    def _enqueue(self, count: int, bits: int) -> CallAnswer:
        """Take syndromes in; too many make the shot fail."""
        before = self._count
        end = before + count
        if self._state != "collecting" or end > self._decoder.syndromes:
            self._state = "failed"
            return _OK
        self._syndromes |= bits << before
        self._count = end
        if end < self._decoder.syndromes:
            return _OK
        self._state = "full"
        return CallAnswer(status=Status.OK, to_decode=self)

    def _answer_corrections(self, observables: int, reset: bool) -> CallAnswer:
        if observables != self._decoder.observables:
            return _BAD
        if self._state == "failed":
            return _OF_STATUS[Status.INTERNAL_ERROR]
        if self._state != "ready":
            return _OF_STATUS[Status.NOT_READY]
        found = CallAnswer(status=Status.OK, result=self._corrections)
        if reset:
            self._reset()
        return found

    def _reset(self) -> None:
        self._state = "collecting"
        self._syndromes = self._count = 0


class ShotTable:
    """The shots of all callers: so many at most, each of one caller and one decoder.

    Only syndromes that can be read make a session. When there are `MOST_SESSIONS`, a newcomer takes
    the place of the caller who was silent longest, if for `KEPT_S`, and is told BUSY otherwise: a
    flood cannot take the shots of those who are there.

    opened: sessions so far. repeated: calls with the id of the caller's last one. Ids are opaque, so
    such calls are carried out.
    """

    def __init__(self, decoders: Mapping[int, Decoder], *, most: int = MOST_SESSIONS) -> None:
        self._decoders = dict(decoders)
        self._most = most
        self._of: OrderedDict[tuple[Hashable, int], Session] = OrderedDict()
        self.opened = 0
        self.repeated = 0

    def __len__(self) -> int:
        return len(self._of)

    def answer(
        self, caller: Hashable, function: int, message: Buffer, end: int, now_s: float
    ) -> CallAnswer:
        """Carry one of `CALLS` out on the caller's session."""
        try:
            decoder = decoder_of(message, end)
        except Malformed:
            return _BAD
        key = caller, decoder
        session = self._of.get(key)
        if session is None:
            return self._answer_newcomer(key, function, message, end, now_s)
        session.seen_s = now_s
        number = message[REQUEST_ID]
        self.repeated += number == session.last_id
        session.last_id = number
        self._of.move_to_end(key)
        return session.answer(function, message, end)

    def _answer_newcomer(
        self, key: tuple[Hashable, int], function: int, message: Buffer, end: int, now_s: float
    ) -> CallAnswer:
        decoder = self._decoders.get(key[1])
        if decoder is None:
            return _OF_STATUS[Status.INVALID_DECODER]
        session = Session(decoder)
        found = session.answer(function, message, end)
        if function != ENQUEUE or found.status != Status.OK:
            return found
        if len(self._of) >= self._most:
            oldest, silent = next(iter(self._of.items()))
            if now_s - silent.seen_s < KEPT_S:
                return _OF_STATUS[Status.BUSY]
            del self._of[oldest]
        session.seen_s, session.last_id = now_s, message[REQUEST_ID]
        self._of[key] = session
        self.opened += 1
        return found
