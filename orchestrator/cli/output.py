"""How the command line speaks: tables and text through Rich, or one JSON document."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from traceback import walk_tb
from typing import IO, TYPE_CHECKING, Any

from orchestrator.wording import visible, visible_json

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "arose_in_output",
    "facts",
    "open_console",
    "print_error",
    "print_json",
    "print_warning",
    "rich_table",
    "say",
    "tabulate",
    "write",
]


_FILE_WIDTH = 160


def arose_in_output(error: BaseException) -> bool:
    """Whether an error was raised while something was printed."""
    return any(frame.f_code.co_filename == __file__ for frame, _ in walk_tb(error.__traceback__))


def open_console(*, stderr: bool = False) -> Console:
    """Return a Rich console on the stream as it is now."""
    from rich.console import Console

    class RaisingConsole(Console):
        """Raises ``BrokenPipeError`` where Rich would exit, in the midst of ending a run, too."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _FILE_WIDTH  # a file or a pipe needs no folding at 80
    return RaisingConsole(file=stream, width=width, highlight=False, soft_wrap=True)


def print_json(value: Any, file: IO[str] | None = None) -> None:
    """Write a value as one JSON document, in ASCII where the stream knows no UTF-8."""
    from orchestrator.provenance.values import json_text

    stream = file or sys.stdout
    encoding = str(getattr(stream, "encoding", None) or "utf-8").lower()
    stream.write(visible_json(json_text(value, ascii_only=not encoding.startswith("utf"))))


def print_error(message: str) -> None:
    """Write an error as one paragraph to stderr."""
    _print_marked("Error: ", "bold red", message)


def print_warning(message: str) -> None:
    """Write as one paragraph to stderr what is no error, and perhaps not what was meant."""
    _print_marked("Warning: ", "bold yellow", message)


def _print_marked(mark: str, style: str, message: str) -> None:
    from rich.text import Text

    text = Text(mark, style=style)
    text.append(visible(message), style="not bold default")
    open_console(stderr=True).print(text)


def say(text: str, *, style: str = "", stderr: bool = False) -> None:
    """Write a line; nothing in it is taken for markup."""
    open_console(stderr=stderr).print(visible(text), style=style, markup=False)


def write(text: str, stream: IO[str]) -> None:
    """Write text as it is, with all in it that cannot be seen escaped, and flush the stream."""
    stream.write(visible(text))
    stream.flush()


def tabulate(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """Write a table to stdout."""
    open_console().print(rich_table(columns, rows, title))


def rich_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> Any:
    """Return a Rich table; a column of numbers is set flush right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    listed = [list(row) for row in rows]
    heading = Text(visible(title, lines=False)) if title else None
    table = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        numbers = bool(listed) and all(
            isinstance(row[index], (int, float, type(None))) for row in listed
        )
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in listed:
        table.add_row(*(_cell(cell) for cell in row))
    return table


def facts(pairs: Mapping[str, Any], title: str = "") -> None:
    """Write names and values, one pair a line; what is None is left out."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs.items():
        if value is not None:
            grid.add_row(_cell(name), _cell(value))
    console = open_console()
    if title:
        console.print(visible(title, lines=False), style="bold underline", markup=False)
    console.print(grid)


def _cell(value: Any) -> Any:
    from rich.text import Text

    from orchestrator.provenance.markup import cell_text

    return Text(visible(cell_text(value), lines=False))
