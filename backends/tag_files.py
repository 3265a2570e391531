"""Notes about tasks, a private file for each tag, which outlive the process."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["TagFiles"]


class TagFiles:
    """JSON objects by tag, in a folder. Tags are safe file names, as `check_tag` makes sure."""

    def __init__(self, folder: Path) -> None:
        """Store the folder, which is made with the first file."""
        self._folder = folder

    def read(self, tag: str) -> Mapping[str, Any] | None:
        """Return what is stored for a tag, or None."""
        try:
            stated: Mapping[str, Any] = json.loads(self._path(tag).read_bytes())
        except FileNotFoundError:
            return None
        return stated

    def write(self, tag: str, note: Mapping[str, Any]) -> None:
        """Add or replace what is stored for a tag; it is on disk when this returns."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._path(tag).with_suffix(f".{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(note, file)
            file.flush()
            os.fsync(descriptor)
        draft.replace(self._path(tag))

    def remove(self, tag: str) -> None:
        """Remove what is stored for a tag, if anything is."""
        self._path(tag).unlink(missing_ok=True)

    def purge(self, before_s: float) -> None:
        """Remove what was stored before a time, in seconds since the epoch."""
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._folder):
                with contextlib.suppress(OSError):
                    if entry.stat().st_mtime < before_s:
                        Path(entry.path).unlink()

    def _path(self, tag: str) -> Path:
        return self._folder / f"{tag}.json"
