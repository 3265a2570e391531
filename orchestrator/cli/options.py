"""The options that several commands share, and how their values are read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Budgets",
    "CouplingName",
    "Json",
    "Labels",
    "Limit",
    "Parameters",
    "Qpu",
    "Settings",
    "SiteFile",
    "path",
    "real",
    "whole",
]

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_MOST_DIGITS = 300


def path(text: str | Path) -> Path:
    """Return a path; ``~`` is the home folder also where the shell left it, as in quotes."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise typer.BadParameter(f"{str(text)!r}: no such user; give a path") from None


def whole(least: int | None = None, most: int | None = None) -> Callable[[str | int], int]:
    """Return a reader of whole numbers from ``least`` to ``most``; ``1e6`` is one.

    >>> whole()("1e6"), whole(1)("20")
    (1000000, 20)
    """

    def read(text: str | int) -> int:
        stated = str(text).strip()
        value = _value(stated)
        if not value.is_integer():
            raise typer.BadParameter(f"{stated!r} is not a whole number; give one such as 1000")
        number = int(stated) if stated.lstrip("+-").isdigit() else int(value)
        if least is not None and number < least:
            raise typer.BadParameter(f"{stated} is too small; give a whole number ≥ {least}")
        if most is not None and number > most:
            raise typer.BadParameter(f"{stated} is too large; give a whole number ≤ {most}")
        return number

    read.__name__ = "whole"  # what help pages call the type
    return read


def real(least: float | None = None) -> Callable[[str | float], float]:
    """Return a reader of finite numbers, of ``least`` or more."""

    def read(text: str | float) -> float:
        stated = str(text).strip()
        value = _value(stated)
        if not math.isfinite(value):
            raise typer.BadParameter(f"{stated!r} is not a number; give one such as 0.5")
        if least is not None and value < least:
            raise typer.BadParameter(f"{stated} is too small; give a number ≥ {least:g}")
        return value

    read.__name__ = "real"
    return read


def _value(text: str) -> float:
    return float(text) if len(text) <= _MOST_DIGITS and _NUMBER.fullmatch(text) else math.nan


SiteFile = Annotated[
    Path | None,
    typer.Option("--site", parser=path, metavar="FILE", help="Site file instead of the one found."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one setting of the site, such as qpu.vlq.longest_task_s=60. Repeatable.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Write one JSON document to stdout.")]
Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="'AMOUNT UNIT'",
        help="Stop before the quantum call that would cost more in all, such as "
        "'10 billed-s'; 'none billed-s' lifts it. Repeatable.",
    ),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "-p",
        "--parameter",
        metavar="NAME=VALUE",
        help="Parameter of the flow: a TOML or JSON value, or text. Repeatable.",
    ),
]
Qpu = Annotated[
    str | None,
    typer.Option(
        "--qpu",
        metavar="NAME",
        envvar="HPCQC_QPU",
        help="QPU instead of the site's default; any: the broker chooses.",
    ),
]
CouplingName = Annotated[
    str | None,
    typer.Option(
        "--coupling",
        metavar="NAME",
        help="How stages share nodes and QPU in time: exclusive, split, multiplexed, malleable, "
        "gated, or auto; the site's if not given.",
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="NAME",
        help="Label of the data, such as embargoed or jurisdiction:EU: no QPU gets it whose site file "
        "does not accept the label. Repeatable.",
    ),
]
Limit = Annotated[int, typer.Option(parser=whole(1), metavar="N", help="The latest N.")]
