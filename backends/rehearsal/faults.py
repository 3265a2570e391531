"""Faults of a rehearsed site: which requests meet which one (pure)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from backends.suggestions import did_you_mean

__all__ = ["FAULT_KINDS", "RETRY_AFTER_S", "FaultError", "FaultScript", "SiteFault", "parse_fault"]

FAULT_KINDS = {
    "429": "refuses the request, with Retry-After",
    "503": "refuses the request as out of service, with Retry-After",
    "slow": "answers a second late",
    "unsent": "closes the connection and does nothing",
    "lost": "does what was asked, and closes the connection without an answer",
    "error": "does what was asked, and answers 500",
    "limit": "does what was asked, and answers 429, as some sites do beyond their connections",
    "504": "does what was asked, and answers as a gateway whose time is up",
    "twice": "does what was asked twice, and answers as a gateway whose time is up",
    "garbage": "does what was asked, and answers with a page of HTML",
    "partial": "does what was asked, and ends in the middle of the answer",
    "stuck": "accepts the job, which never ends",
    "failed": "accepts the job, which fails",
    "calibration": "calibrates the device before it looks at the request",
    "vanish": "calibrates the device, and forgets all earlier calibrations",
    "renew": "replaces the token, also in its file, before it looks at the request",
    "revoke": "revokes the token, until a new one is asked for",
    "maintenance": "goes out of service with this request, until that is ended",
}
RETRY_AFTER_S = 1


class FaultError(ValueError):
    """A fault is not stated as ``KIND:CALL`` or ``KIND:CALL:NUMBER,NUMBER``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFault:
    """A fault of some requests. on: which ones of the call, from 1; empty for each."""

    kind: str
    call: str
    on: tuple[int, ...] = ()

    def strikes(self, call: str, number: int) -> bool:
        """Whether it meets a call's request of this number."""
        return call == self.call and (not self.on or number in self.on)


def parse_fault(text: str) -> SiteFault:
    """Read ``KIND:CALL`` or ``KIND:CALL:NUMBER,NUMBER``. Raises `FaultError`.

    >>> parse_fault("lost:submit:2,5")
    SiteFault(kind='lost', call='submit', on=(2, 5))
    """
    kind, _, rest = text.partition(":")
    call, _, numbers = rest.partition(":")
    if kind not in FAULT_KINDS:
        raise FaultError(
            f"unknown fault {kind!r}; there are: {', '.join(FAULT_KINDS)}"
            f"{did_you_mean(kind, FAULT_KINDS)}"
        )
    on = [number for number in numbers.split(",") if number]
    if not call or not all(number.isdigit() and int(number) for number in on):
        raise FaultError(
            f"fault {text!r}; give KIND:CALL or KIND:CALL:NUMBER,NUMBER, such as lost:submit:2"
        )
    return SiteFault(kind=kind, call=call, on=tuple(int(number) for number in on))


class FaultScript:
    """Counts requests by call, and says which faults each one meets. Any thread may ask."""

    def __init__(self, faults: Iterable[SiteFault] = ()) -> None:
        self._faults = list(faults)
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, fault: SiteFault) -> None:
        """Add a fault; its numbers count from the next request on."""
        with self._lock:
            counted = self._counts[fault.call]
            later = tuple(number + counted for number in fault.on)
            self._faults.append(SiteFault(kind=fault.kind, call=fault.call, on=later))

    def clear(self) -> None:
        """Drop all faults."""
        with self._lock:
            self._faults.clear()

    def strike(self, call: str) -> frozenset[str]:
        """Count a request, and return the kinds of the faults that it meets."""
        with self._lock:
            self._counts[call] += 1
            number = self._counts[call]
            return frozenset(f.kind for f in self._faults if f.strikes(call, number))

    def counts(self) -> dict[str, Any]:
        """Return how many requests of each call there were."""
        with self._lock:
            return dict(self._counts)
