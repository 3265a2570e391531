"""Errors of QPUs, told by the name that a user knows: that of the site file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from backends.api import (
    AccessDenied,
    CalibrationChanged,
    PayloadRejected,
    QpuBusy,
    QpuUnavailable,
    TaskFailed,
)

__all__ = ["naming_qpu"]

# What backends raise, and the checks of a payload against a target: they know the device's name.
_OF_A_QPU = (
    AccessDenied,
    CalibrationChanged,
    PayloadRejected,
    QpuBusy,
    QpuUnavailable,
    TaskFailed,
)


@contextmanager
def naming_qpu(qpu: str) -> Iterator[None]:
    """Let the errors of a QPU that the block raises begin with the QPU's name.

    >>> from backends.api import QpuUnavailable
    >>> with naming_qpu("ibm_torino"):
    ...     raise QpuUnavailable("torino is calibrated until 9:00")
    Traceback (most recent call last):
    backends.errors.QpuUnavailable: QPU 'ibm_torino': torino is calibrated until 9:00
    """
    try:
        yield
    except _OF_A_QPU as error:
        text, named = str(error), f"QPU {qpu!r}"
        if not text.startswith(named):  # as by a block inside of this one
            error.args = (f"{named}: {text}", *error.args[1:])
        raise
