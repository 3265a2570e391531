"""The folder a run leaves behind, written as the run goes."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from orchestrator.provenance.outcome import Outcome
from orchestrator.provenance.record import recorded_stage
from orchestrator.provenance.report import draw_report
from orchestrator.provenance.schema import RecordedStage, RecordError, RunRecord, read_record
from orchestrator.provenance.values import json_text, json_value
from orchestrator.runs import StageSpan

__all__ = ["FolderError", "RunFolder"]

# What a run replaces at its end; it only appends to its log and its list of stages.
_REPLACED = ("result.json", "report.html", "plot.png", "plot.svg", "gantt.png")


class FolderError(ValueError):
    """The run's folder cannot be used; nothing in it was changed."""


class RunFolder:
    """A run's files, for one process at a time. A killed run keeps the stages it has ended."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock_file: IO[str] | None = None
        self._stages: IO[str] | None = None
        self._writing = threading.Lock()

    def check(self) -> None:
        """Raise `FolderError` if the folder cannot be made or written; make nothing.

        Neither can one with files that no run wrote and this one would replace.
        """
        try:
            place = next(p for p in (self.path, *self.path.parents) if p.exists())
            if not place.is_dir():
                fault = f"{place} is not a folder"
            elif not os.access(place, os.W_OK | os.X_OK):
                fault = f"{place} is not writable"
            elif own := _unrecorded_file(self.path):
                fault = f"it has a file {own} that no run wrote, and the run would replace it"
            else:
                return
        except OSError as error:  # a folder above that one may not enter, a name that is too long
            fault = f"{error.strerror}"
        raise self._unwritable(fault)

    def open(self, run_id: str, target: str) -> RunRecord | None:
        """Make or take the folder, or raise `FolderError`; return the last attempt's record."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock_file = (self.path / ".lock").open("a")
        except OSError as error:
            raise self._unwritable(f"{error.strerror}") from error
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock_file.close()
            raise FolderError(
                f"{self.path} is in use by another process of this run; wait for its end, "
                "or choose another run id"
            ) from error
        try:
            earlier = _earlier_record(self.path, run_id, target)
            self._stages = _opened_to_append(self.path / "stages.jsonl")
        except BaseException:
            lock_file.close()
            raise
        self._lock_file = lock_file
        return earlier

    def _unwritable(self, fault: str) -> FolderError:
        return FolderError(f"cannot write the output folder {self.path}: {fault}; choose another")

    def broker_of(self, run_id: str) -> str | None:
        """Return the broker's url that the record of this run names, None if there is none."""
        try:
            record = read_record(self.path)
        except RecordError:
            return None
        return record.site.broker_url if record.id == run_id else None

    def note_stage(self, span: StageSpan) -> None:
        """Append a stage that ran to its end, so not a cached one, from any thread."""
        # A full disk does not fail the stage: the record at the end is made from memory.
        if span.ended_at is None or span.state == "cached":
            return
        line = json.dumps(json_value(recorded_stage(span)))
        with self._writing, suppress(OSError):
            if self._stages is not None:
                self._stages.write(line + "\n")
                self._stages.flush()

    def noted_stages(self) -> list[RecordedStage]:
        """Return the stages noted so far; a line that a kill cut short is left out."""
        stages = []
        try:
            lines = (self.path / "stages.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        for line in lines:
            try:
                stages.append(RecordedStage.model_validate_json(line))
            except ValidationError:
                continue
        return stages

    def write_record(self, record: RunRecord) -> None:
        """Replace ``run.json``."""
        self._replace("run.json", json_text(record).encode())

    def write_result(self, result: Any) -> None:
        """Write ``result.json``."""
        self._replace("result.json", json_text(result).encode())

    def write_report(self, record: RunRecord, result: Any) -> Outcome:
        """Write ``report.html`` and the pictures; return what of the result they show."""
        report = draw_report(record, result)
        for name, png in report.pictures.items():
            self._replace(name, png)
        self._replace("report.html", report.page)
        return report.outcome

    def close(self) -> None:
        """Let another process have the folder; closing twice does nothing."""
        with self._writing:
            for file in (self._stages, self._lock_file):
                if file is not None:
                    with suppress(OSError):  # a full disk; the record was made from memory
                        file.close()
            self._stages = self._lock_file = None

    def _replace(self, name: str, content: bytes) -> None:
        draft = self.path / f".{name}.draft"
        try:
            draft.write_bytes(content)
            os.replace(draft, self.path / name)  # noqa: PTH105 - atomic, by its name
        except OSError as error:
            with suppress(OSError):
                draft.unlink()
            raise FolderError(
                f"cannot write {self.path / name}: {error.strerror}; correct that and "
                "continue the run under its id, which repeats nothing that has ended"
            ) from error


def _unrecorded_file(path: Path) -> str | None:
    """Return the first file named like a run's where no run is recorded, None if there is none."""
    if (path / "run.json").exists():
        return None  # whose, `open` checks
    return next((name for name in _REPLACED if os.path.lexists(path / name)), None)


def _opened_to_append(path: Path) -> IO[str]:
    """Open a file of lines; one that a kill cut short is ended, or it would spoil the next."""
    cut = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    file = path.open("a", encoding="utf-8")
    if cut:
        file.write("\n")
    return file


def _earlier_record(path: Path, run_id: str, target: str) -> RunRecord | None:
    if not (path / "run.json").exists():
        return None
    try:
        record = read_record(path)
    except RecordError as error:
        raise FolderError(f"cannot write into {path}: {error}; or choose another folder") from error
    if record.id != run_id:
        raise FolderError(
            f"{path} holds run {record.id!r}; continue it under that run id, or "
            "choose another folder"
        )
    if record.target != target:
        raise FolderError(
            f"run {run_id!r} was started as {record.target!r}, not {target!r}; choose "
            "another run id"
        )
    return record
