"""The standard streams of a command: in any encoding, and whether or not anyone still reads them."""

from __future__ import annotations

import codecs
import contextlib
import logging
import os
import sys
import threading
from typing import IO, Any

__all__ = ["LastingStream", "flush_output", "prepare_streams"]

_ERRORS = "hpcqc-plain"
# What messages and tables of ours contain; letters of the user's are escaped, never exchanged.
_PLAIN = {
    "…": "...", "–": "-", "—": "-", "−": "-", "×": "x", "·": "*", "’": "'", "≥": ">=", "≤": "<=",
    "µ": "u", "→": "->", "±": "+-", "²": "^2", "√": "sqrt", "⟨": "<", "⟩": ">",
}  # fmt: skip


def prepare_streams() -> None:
    """Let stdout and stderr take every character, and be there if they were closed."""
    codecs.register_error(_ERRORS, _replaced)
    logging.raiseExceptions = False  # a log on a full disk is not worth a traceback for each line
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # started with the descriptor closed, `>&-`
            # Opened for good: the descriptor must not become that of a ledger.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_ERRORS)


def flush_output() -> OSError | None:
    """Flush stdout and stderr before Python does at exit; return why they cannot be written."""
    fault = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            fault = fault or error
            _mute(stream)
        except ValueError:
            continue  # closed by the program
    return fault


class LastingStream:
    """A stream for several threads, whose reader may go away: later output is then discarded."""

    # CPython 3.11 can crash when two threads write to one text stream, which two of these may share.
    _writing = threading.RLock()

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write to the stream; discard the text if nobody reads it any more."""
        with self._writing:
            try:
                return self._stream.write(text)
            except BrokenPipeError:
                _mute(self._stream)
                return len(text)

    def flush(self) -> None:
        """Flush the stream; discard what it holds if nobody reads it any more."""
        with self._writing:
            try:
                self._stream.flush()
            except BrokenPipeError:
                _mute(self._stream)


def _mute(stream: IO[str]) -> None:
    """Send what a stream holds, and all it is given from now on, nowhere."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    plain = [_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in part]
    return "".join(plain), error.end
