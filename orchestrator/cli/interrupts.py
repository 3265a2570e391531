"""Commands that are told to end: by Ctrl-C, by the batch system, by a terminal that closes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress

from orchestrator.application.errors import reason
from orchestrator.cli.output import print_error
from orchestrator.cli.signals import words_for
from orchestrator.cli.streams import flush_output

__all__ = ["end_after", "interrupt_behind", "report_interrupt"]

_CLOSE_S = 10.0


def interrupt_behind(error: BaseException) -> KeyboardInterrupt | None:
    """Return the interrupt that an error or an exit came from, None if there is none."""
    chain: list[BaseException] = []
    behind: BaseException | None = error
    while behind is not None and behind not in chain:  # errors may refer to each other
        if isinstance(behind, KeyboardInterrupt):
            return behind
        chain.append(behind)
        behind = behind.__cause__ or behind.__context__
    return None


def report_interrupt(interrupt: KeyboardInterrupt, words: str = "") -> int:
    """Print one line about an interrupt; return the exit code."""
    number = getattr(interrupt, "number", signal.SIGINT)
    said = words_for(number)
    _print(f"{said}; {words}" if words else said)
    return 128 + number


def end_after(
    interrupt: KeyboardInterrupt,
    words: str,
    close: Callable[[], None],
    record: Callable[[], None] | None = None,
    *,
    close_s: float = _CLOSE_S,
    left: Callable[[], str] | None = None,
    record_in_haste: Callable[[], None] | None = None,
) -> None:
    """Report an interrupt, close (at most ``close_s``), record, and end; another Ctrl-C ends at once.

    left: says what closing has left, empty for nothing. record_in_haste: instead of ``record`` after
    another Ctrl-C.
    """
    for once in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(once, signal.SIG_IGN)
    code = report_interrupt(interrupt, words)
    try:
        closing = threading.Thread(target=_reported, args=(close,), daemon=True)
        closing.start()
        closing.join(close_s)
        if left is not None:
            _reported(lambda: _print_if_any(left()))
        if record is not None:
            _reported(record)
    except KeyboardInterrupt:
        with suppress(KeyboardInterrupt):
            if record_in_haste is not None:
                _reported(record_in_haste)
    flush_output()
    _end_now(code)


def _reported(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception as error:  # noqa: BLE001 - nothing may keep an interrupt from ending
        _print(reason(error))


def _print(message: str) -> None:
    with suppress(OSError):  # the terminal may have gone
        print_error(message)


def _print_if_any(message: str) -> None:
    if message:
        _print(message)


def _end_now(code: int) -> None:
    """End this process and every child of it, without waiting for threads that still hang."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    os._exit(code)
