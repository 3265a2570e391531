"""The command line, ``hpcqc``."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from orchestrator.cli.signals import end_at_once, words_for

__all__ = ["main", "run_alone"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 failed, 2 a mistake of the user's, 130 interrupted.

    arguments: without the program's name; None takes the process's own.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)

    def load() -> None:
        from orchestrator.cli import app  # noqa: F401

    def command() -> int:
        from orchestrator.cli.app import app

        app(args=given, prog_name="hpcqc")
        return 0

    run_alone(command, load=load, as_json="--json" in given, for_good=arguments is None)


def run_alone(
    command: Callable[[], int],
    *,
    load: Callable[[], None] | None = None,
    as_json: bool = False,
    for_good: bool = True,
) -> None:
    """Exit with a command's code, or with that of its error, which is printed.

    load: imports what the command needs; a signal meanwhile ends the process at once. as_json:
    print errors as JSON. for_good: this process does nothing else.
    """
    ending = _Ending()
    if for_good:
        end_at_once()
        atexit.register(ending)  # before any other, so that it runs after all of them
    os.umask(0o077)  # what it writes is its owner's alone
    from orchestrator.garbage import collect_seldom

    collect_seldom()
    from orchestrator.cli.streams import prepare_streams

    prepare_streams()
    try:
        code, fault = _run(command, load, as_json=as_json)
    except KeyboardInterrupt as interrupt:  # of a command that is not Typer's
        number = getattr(interrupt, "number", 2)
        from orchestrator.cli.output import print_error

        print_error(words_for(number))
        ending.code = 128 + number
    else:
        ending.code = code if fault is None else _unwritten(code, fault)
    sys.exit(ending.code)


class _Ending:
    """Ends the process after its last exit handler, before Python takes itself apart.

    Taking apart what Qiskit, SQLAlchemy or Prefect have made costs a quarter of a second and
    frees nothing that the end of the process does not free.

    code: the exit code, once it is known.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        # Who registered a handler before this program began watches it (coverage, a profiler).
        self._watched = atexit._ncallbacks() > 0  # noqa: SLF001 - nothing public tells

    def __call__(self) -> None:
        if self.code is None or self._watched:
            return
        from orchestrator.cli.streams import flush_output

        flush_output()
        os._exit(self.code)


def _run(
    command: Callable[[], int], load: Callable[[], None] | None, *, as_json: bool
) -> tuple[int, OSError | None]:
    """Return a command's exit code, and why what it printed could not be written, if so."""
    from orchestrator.cli.errors import FAILED, end_with
    from orchestrator.cli.interrupts import interrupt_behind, report_interrupt
    from orchestrator.cli.output import arose_in_output
    from orchestrator.cli.signals import interruptible
    from orchestrator.cli.streams import flush_output

    code = 0
    try:
        if load is not None:
            load()
        with interruptible():
            code = command()
    except SystemExit as end:  # Typer ends every command with one, Ctrl-C too
        code = end.code if isinstance(end.code, int) else code
        interrupt = interrupt_behind(end)
        if interrupt is not None:
            code = report_interrupt(interrupt)
    except Exception as error:  # noqa: BLE001 - the door: nothing may leave it as a traceback
        interrupt = interrupt_behind(error)
        if interrupt is not None:  # Pydantic, for one, has errors of its own for it
            return report_interrupt(interrupt), None
        if isinstance(error, OSError) and arose_in_output(error):
            return FAILED, error
        try:
            code = end_with(error, as_json=as_json)
        except OSError as unwritten:
            return FAILED, unwritten
    return code, flush_output()


def _unwritten(code: int, fault: OSError) -> int:
    """Report output that was lost; return the exit code."""
    from orchestrator.cli.errors import FAILED
    from orchestrator.cli.output import print_error
    from orchestrator.cli.streams import flush_output

    flush_output()  # what is left would be complained of when Python ends
    if not isinstance(fault, BrokenPipeError):  # `hpcqc jobs | head` is nobody's fault
        with suppress(OSError):
            print_error(f"the output cannot be written: {fault.strerror}")
    return code or FAILED
