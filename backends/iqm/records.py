"""The tasks that were started at an IQM Server, in files: what the server does not return."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backends.iqm.jobs import PubRecipe

__all__ = ["StartedJob", "StartedJobs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedJob:
    """A start. job: its id at the server; None while, or if ever, the answer is missing."""

    tag: str
    job: str | None
    shots: int
    circuits: int
    num_qubits: int
    modelled_s: float
    recipes: tuple[PubRecipe, ...]

    def accepted(self, job: str) -> StartedJob:
        """Return the record with the id of its job."""
        return replace(self, job=job)


class StartedJobs:
    """Records by tag, each a file that is replaced as a whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, tag: str) -> StartedJob | None:
        """Return the record of a tag, which is a safe name of a file."""
        try:
            stated: Mapping[str, Any] = json.loads(self._path(tag).read_bytes())
        except FileNotFoundError:
            return None
        recipes: Sequence[Mapping[str, Any]] = stated["recipes"]
        return StartedJob(**{**stated, "recipes": tuple(map(PubRecipe.from_json, recipes))})

    def write(self, record: StartedJob) -> None:
        """Add or replace a record; it is on disk when this returns."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._path(record.tag).with_suffix(f".{os.getpid()}")
        stated = {name: getattr(record, name) for name in StartedJob.__dataclass_fields__}
        stated["recipes"] = [recipe.to_json() for recipe in record.recipes]
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(stated, file)
            file.flush()
            os.fsync(descriptor)
        draft.replace(self._path(record.tag))

    def remove(self, tag: str) -> None:
        """Remove the record of a start that surely started nothing."""
        self._path(tag).unlink(missing_ok=True)

    def purge(self, before_s: float) -> None:
        """Remove records older than a time, in seconds since the epoch.

        A start without an answer is kept: it must not be repeated, however long ago it was.
        """
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._folder):
                with contextlib.suppress(OSError):
                    if entry.stat().st_mtime < before_s and self._is_answered(Path(entry.path)):
                        Path(entry.path).unlink()

    def _is_answered(self, path: Path) -> bool:
        if path.suffix != ".json":  # a draft, of a process that was killed
            return True
        found = self.read(path.stem)
        return found is not None and found.job is not None

    def _path(self, tag: str) -> Path:
        return self._folder / f"{tag}.json"
