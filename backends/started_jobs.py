"""The tasks that were started at a vendor's server, in files: what servers do not return."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

__all__ = ["StartedJob", "StartedJobs"]

_ANSWERS = ".answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedJob:
    """A start. job: its id at the server; None while, or if ever, the answer is missing.

    recipes: how each PUB's result is put together, as JSON types of the backend.
    started_at_s: in seconds since the epoch, before the request was sent.
    calibration_id: of the device at that time, where the server says that nowhere else.
    """

    tag: str
    job: str | None
    shots: int
    circuits: int
    num_qubits: int
    modelled_s: float
    recipes: tuple[Mapping[str, Any], ...]
    started_at_s: float = 0.0
    calibration_id: str | None = None

    def accepted(self, job: str) -> StartedJob:
        """Return the record with the id of its job."""
        return replace(self, job=job)


class StartedJobs:
    """Records by tag, and answers that a server may give once: files, replaced as a whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, tag: str) -> StartedJob | None:
        """Return the record of a tag, which is a safe name of a file."""
        try:
            stated: Mapping[str, Any] = json.loads(self._path(tag).read_bytes())
        except FileNotFoundError:
            return None
        return StartedJob(**{**stated, "recipes": tuple(stated["recipes"])})

    def write(self, record: StartedJob) -> None:
        """Add or replace a record; it is on disk when this returns."""
        stated = {name: getattr(record, name) for name in StartedJob.__dataclass_fields__}
        self._replace(self._path(record.tag), stated)

    def answer(self, tag: str) -> Any:
        """Return what the server said at the end of a task, None if that is not stored."""
        try:
            return json.loads(self._answer_path(tag).read_bytes())
        except FileNotFoundError:
            return None

    def write_answer(self, tag: str, answer: Any) -> None:
        """Store what the server said at the end of a task."""
        self._replace(self._answer_path(tag), answer)

    def remove(self, tag: str) -> None:
        """Remove the record of a start that surely started nothing."""
        self._path(tag).unlink(missing_ok=True)

    def purge(self, before_s: float) -> None:
        """Remove records and answers older than a time, in seconds since the epoch.

        A start without an answer is kept: it must not be repeated, however long ago it was.
        """
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._folder):
                with contextlib.suppress(OSError):
                    if entry.stat().st_mtime < before_s and self._is_over(Path(entry.path)):
                        Path(entry.path).unlink()

    def _is_over(self, path: Path) -> bool:
        if path.suffix != ".json":  # an answer, or a draft of a process that was killed
            return True
        found = self.read(path.stem)
        return found is not None and found.job is not None

    def _replace(self, path: Path, stated: Any) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(stated, file)
            file.flush()
            os.fsync(descriptor)
        draft.replace(path)

    def _path(self, tag: str) -> Path:
        return self._folder / f"{tag}.json"

    def _answer_path(self, tag: str) -> Path:
        return self._folder / f"{tag}{_ANSWERS}"
