"""What SIGINT, SIGTERM and SIGHUP do to a command: they end it, or interrupt what it is doing.

Imports no more than it must: until `end_at_once` is called, a signal is Python's to handle.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["Terminated", "end_at_once", "interruptible", "words_for"]

_WORDS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "the terminal was closed",
}
_IMPORT = "<frozen importlib._bootstrap>"
_LOOK_EVERY_S = 0.002
_LONGEST_IMPORT_S = 10.0


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM, as Slurm does at the end of a walltime, or SIGHUP."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)


def words_for(number: int) -> str:
    """Return what a signal did to a command."""
    return _WORDS[signal.Signals(number)]


def end_at_once() -> None:
    """Let signals that are not ignored (`nohup`) end this process without exit handlers.

    It is for the time before a command has an effect, and after its last one. An exception, as
    Python raises it for Ctrl-C, would be printed with its traceback, or lost in an import.
    """
    if threading.current_thread() is threading.main_thread():
        for number in _heeded():
            signal.signal(number, _end)


@contextmanager
def interruptible() -> Iterator[None]:
    """Make signals that are not ignored raise `KeyboardInterrupt` or `Terminated` in the block.

    During an import they are raised after it, or after 10 s. A second one ends the process at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _heeded()}
    interrupt = _Interrupt()
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Interrupt:
    """Raises what a signal means when the main thread is not in an import.

    An import runs callbacks whose exceptions CPython prints and drops (of weak references to
    module locks), or from which libraries make errors of their own (Pydantic's schemas).
    """

    def __init__(self) -> None:
        self._main_thread = threading.get_ident()
        self._raised_by: float | None = None  # the end of the wait for an import
        self._is_look = False  # the next signal is this object's own

    def __call__(self, number: int, frame: FrameType | None) -> None:
        is_look, self._is_look = self._is_look, False
        now = time.monotonic()
        if not _is_importing(frame) or (self._raised_by is not None and now > self._raised_by):
            self._raised_by = None
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)
        if self._raised_by is None:
            self._raised_by = now + _LONGEST_IMPORT_S
        elif not is_look:
            _end(number, frame)
        # Not a `threading.Thread`, whose start takes a lock that the main thread may hold.
        _thread.start_new_thread(self._look_again, (number,))

    def _look_again(self, number: int) -> None:
        time.sleep(_LOOK_EVERY_S)
        self._is_look = True
        signal.pthread_kill(self._main_thread, number)


def _heeded() -> list[signal.Signals]:
    # None is the handler of a program that embeds Python.
    return [n for n in _WORDS if signal.getsignal(n) not in (signal.SIG_IGN, None)]


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT:
            return True
        frame = frame.f_back
    return False


def _end(number: int, _frame: FrameType | None) -> None:
    if sys.stderr is not None:  # else the descriptor may be another file's
        with suppress(OSError):
            os.write(2, f"Error: {words_for(number)}\n".encode())
    os._exit(128 + number)
