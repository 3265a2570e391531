"""Run records from files, also of earlier versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.provenance.schema import VERSION, RunRecord
from orchestrator.text_files import TextFileError, read_text

__all__ = ["RecordError", "read_record"]

_EARLIER = {"hpcqc-run/1": 1}  # what records had as "schema" before they had a version
_RESTORE = (
    "restore it, or continue the run under its id in another folder, which repeats nothing and "
    "writes the record again"
)
_NOT_ONE = "give the run.json that hpcqc run wrote, or its folder"


class RecordError(ValueError):
    """A file is not a run record that can be read; the message says what to do."""


def read_record(path: Path) -> RunRecord:
    """Read a run record.

    Args:
        path: A ``run.json``, or the folder of a run.

    Returns:
        The record. Those of earlier versions are converted.

    Raises:
        RecordError: The file is missing, damaged, of a newer version, or not a run record.
    """
    file = path / "run.json" if path.is_dir() else path
    try:
        return _record(file, read_text(file))
    except TextFileError as error:
        raise RecordError(f"no run record: {error}") from error


def _record(file: Path, text: str) -> RunRecord:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(
            f"{file} is not JSON ({error}); if it was a run record, {_RESTORE}; else {_NOT_ONE}"
        ) from error
    version = _version(document)
    if version is None:
        raise RecordError(f"{file} is not a run record: it has no version; {_NOT_ONE}")
    if version > VERSION:
        writer = document.get("versions")
        needed = writer.get("hpcqc") if isinstance(writer, dict) else None
        by = f"hpcqc {needed}, which wrote it," if needed else "a newer hpcqc"
        raise RecordError(
            f"{file} is a run record of version {version}, and this hpcqc reads versions up to "
            f"{VERSION}; read it with {by} or update this one"
        )
    try:
        return RunRecord.model_validate({**document, "version": VERSION})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise RecordError(
            f"{file} is a damaged run record: {place}: {fault['msg']}; {_RESTORE}"
        ) from error


def _version(document: Any) -> int | None:
    if not isinstance(document, dict):
        return None
    version = document.get("version", _EARLIER.get(str(document.get("schema"))))
    return version if type(version) is int and version > 0 else None
