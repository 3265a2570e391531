"""``hpcqc report``: the report of an earlier run, written again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import Json, path
from orchestrator.cli.output import print_json, say

__all__ = ["report"]


def report(
    record: Annotated[
        Path,
        typer.Argument(
            parser=path, metavar="RUN", help="The run.json of an earlier run, or its folder."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", parser=path, metavar="FILE", help="HTML file; report.html beside the record."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the report of an earlier run again."""
    from orchestrator.application.report import report as write
    from orchestrator.config.errors import ConfigError

    try:
        written = write(record, out=out)
    except OSError as error:
        raise ConfigError(
            f"cannot write {error.filename}: {error.strerror}; give another file with --out"
        ) from None
    if as_json:
        print_json({"report": written})
    else:
        say(str(written))
