"""The tasks of a fake QPU, in memory or in files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["FileRecords", "MemoryRecords", "StartedTask"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedTask:
    """One started task. number: its order, from 1. seed: for PUBs without. Times: epoch seconds."""

    tag: str
    number: int
    started_at: float
    calibration_id: str
    seed: int
    stopped_at: float | None = None


class MemoryRecords:
    """Records that end with the instance."""

    def __init__(self) -> None:
        self._tasks: dict[str, tuple[StartedTask, bytes]] = {}
        self._starts: dict[str, int] = {}

    def tags(self) -> list[str]:
        """All tags that were started."""
        return list(self._tasks)

    def read(self, tag: str) -> tuple[StartedTask, bytes] | None:
        """Return a task's record and payload bytes."""
        return self._tasks.get(tag)

    def write(self, record: StartedTask, payload: bytes) -> None:
        """Keep or replace a task's record."""
        self._tasks[record.tag] = (record, payload)

    def count_start(self, tag: str) -> None:
        """Note that a task really began."""
        self._starts[tag] = self._starts.get(tag, 0) + 1

    def starts(self) -> Mapping[str, int]:
        """How often each tag really began."""
        return dict(self._starts)


class FileRecords:
    """Records in a folder, for instances in several processes one after another."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tags(self) -> list[str]:
        """All tags that were started."""
        return [path.stem for path in sorted(self._folder.glob("*.task"))]

    def read(self, tag: str) -> tuple[StartedTask, bytes] | None:
        """Return a task's record and payload bytes."""
        try:
            head, _, payload = self._path(tag).read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        fields: dict[str, Any] = json.loads(head)
        return StartedTask(**fields), payload

    def write(self, record: StartedTask, payload: bytes) -> None:
        """Keep or replace a task's record; a reader sees the old one or the new one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        draft = self._path(record.tag).with_suffix(".draft")
        draft.write_bytes(json.dumps(asdict(record)).encode() + b"\n" + payload)
        draft.rename(self._path(record.tag))

    def count_start(self, tag: str) -> None:
        """Note that a task really began."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._log.open("a", encoding="utf-8") as log:
            log.write(tag + "\n")

    def starts(self) -> Mapping[str, int]:
        """How often each tag really began."""
        counts: dict[str, int] = {}
        if self._log.exists():
            for tag in self._log.read_text(encoding="utf-8").split():
                counts[tag] = counts.get(tag, 0) + 1
        return counts

    @property
    def _log(self) -> Path:
        return self._folder / "starts.log"

    def _path(self, tag: str) -> Path:
        return self._folder / f"{tag}.task"
