"""The report of an earlier run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator.provenance.report import draw_report
from orchestrator.provenance.schema import read_record
from orchestrator.text_files import TextFileError, read_text

__all__ = ["read_result", "report"]


def report(run: Path | str, *, out: Path | str | None = None) -> Path:
    """Write the report of an earlier run again, from its record.

    Plot, table and summary of the result are in the record; the report shows the rest of the
    result if ``result.json`` is beside it. Other files of the run stay as they are.

    Args:
        run: The run's folder, or its ``run.json``.
        out: HTML file to write; None for ``report.html`` beside the record.

    Returns:
        Path of the written file.

    Raises:
        RecordError: There is no run record that this version can read.
        OSError: The report cannot be written.
    """
    record = read_record(Path(run))
    folder = Path(run) if Path(run).is_dir() else Path(run).parent
    result: Any = None
    notes: list[str] = []
    if record.status == "completed":
        result, notes = read_result(folder / "result.json")
    written = folder / "report.html" if out is None else Path(out)
    written.write_bytes(draw_report(record, result, notes).page)
    return written


def read_result(file: Path) -> tuple[Any, list[str]]:
    """Return a run's result, or None and a note why it is not shown."""
    try:
        return json.loads(read_text(file)), []
    except (TextFileError, ValueError, RecursionError) as error:
        return None, [f"the rest of the result is not shown: {error}"]
