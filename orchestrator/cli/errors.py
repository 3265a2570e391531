"""Errors that end a command: one paragraph, and the exit code that belongs to it."""

from __future__ import annotations

import sys
import traceback

from orchestrator.application.errors import is_mistake, reason
from orchestrator.cli.output import print_error, print_json
from orchestrator.names import OUR_PACKAGES

__all__ = ["FAILED", "MISTAKE", "end_with"]

FAILED, MISTAKE = 1, 2
_FRAMES_SHOWN = 1


def end_with(error: Exception, *, as_json: bool) -> int:
    """Tell an error that ended a command; return the exit code."""
    if is_mistake(error):
        message, code, kind = reason(error), MISTAKE, "mistake"
    else:
        frame = traceback.extract_tb(error.__traceback__)[-_FRAMES_SHOWN:]
        # An error of ours says all there is to know; another's is known by where it arose.
        ours = type(error).__module__.split(".")[0] in OUR_PACKAGES
        place = f" ({frame[0].filename}:{frame[0].lineno})" if frame and not ours else ""
        message, code, kind = f"{reason(error)}{place}", FAILED, "failure"
    print_error(message)
    if as_json:
        print_json({"error": {"kind": kind, "message": message}}, file=sys.stdout)
    return code
