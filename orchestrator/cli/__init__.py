"""The command line, ``hpcqc``."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence

__all__ = ["main"]

# Importing makes long-lived objects; looking for garbage at every 700 costs it 7 % (measured).
_OBJECTS_PER_COLLECTION = 50_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 failed, 2 a mistake of the user's, 130 interrupted.

    arguments: without the program's name; None takes the process's own.
    """
    gc.set_threshold(_OBJECTS_PER_COLLECTION, *gc.get_threshold()[1:])
    from orchestrator.cli.app import app
    from orchestrator.cli.faults import end_with

    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(args=given, prog_name="hpcqc")
    except Exception as error:  # noqa: BLE001 - the door: nothing may leave it as a traceback
        sys.exit(end_with(error, as_json="--json" in given))
