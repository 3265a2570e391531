"""``hpcqc report``: the report of an earlier run, written again."""

from __future__ import annotations

from pathlib import Path

from orchestrator.application.report import report
from orchestrator.cli.output import print_json, say
from orchestrator.config.errors import ConfigError

__all__ = ["report_and_tell"]


def report_and_tell(run: Path, out: Path | None, *, as_json: bool) -> None:
    """Write the report and print its path. Raises ``ValueError`` subclasses."""
    try:
        written = report(run, out=out)
    except OSError as error:
        raise ConfigError(
            f"cannot write {error.filename}: {error.strerror}; give another file with --out"
        ) from None
    if as_json:
        print_json({"report": written})
    else:
        say(str(written))
