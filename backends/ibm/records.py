"""What is kept of each job of IBM's service: its id, and how its result is put together."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backends.ibm.pubs import PubRecipe

__all__ = ["StartedJob", "StartedJobs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedJob:
    """A start under a tag. job: None until its answer came.

    sent_at_s: in seconds since the epoch. num_qubits: of its widest circuit, for its charge.
    """

    tag: str
    sent_at_s: float
    num_qubits: int
    recipes: tuple[PubRecipe, ...]
    job: str | None = None

    def accepted(self, job: str) -> StartedJob:
        """Return the record of a start whose job is known."""
        return replace(self, job=job)


class StartedJobs:
    """Records in a folder, a file for each tag."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, tag: str) -> StartedJob | None:
        """Return the record of a tag, or None."""
        try:
            stated: Mapping[str, Any] = json.loads(self._path(tag).read_bytes())
        except FileNotFoundError:
            return None
        recipes = tuple(map(PubRecipe.from_json, stated["recipes"]))
        return StartedJob(**{**stated, "recipes": recipes})

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
        """Remove records older than a time, in seconds since the epoch."""
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._folder):
                with contextlib.suppress(OSError):
                    if entry.stat().st_mtime < before_s:
                        Path(entry.path).unlink()

    def _path(self, tag: str) -> Path:
        return self._folder / f"{tag}.json"
