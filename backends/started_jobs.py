"""The tasks that are started at a vendor's server: each once, with what servers do not return."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backends.api import QpuTaskId, Target, TaskState
from backends.durable import replace_durably
from backends.errors import (
    AccessDenied,
    CalibrationChanged,
    PayloadRejected,
    QpuBusy,
    QpuUnavailable,
    UnknownTask,
)
from backends.latest import LatestTasks
from backends.tags import is_tag

__all__ = ["StartedJob", "StartedJobs"]

_ANSWERS = ".answer"
_JOB_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,99}")
_KEEP_S = 30 * 86400.0
_ARRIVED_IN_MEMORY = 256
# After these a server started nothing; after anything else, nobody knows.
_NOTHING_STARTED = (AccessDenied, CalibrationChanged, PayloadRejected, QpuBusy)


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

    def __init__(self, folder: Path, *, job_id: re.Pattern[str] = _JOB_ID) -> None:
        """Store the arguments: where the files are, and what ids of jobs look like."""
        self._folder, self._job_id = folder, job_id
        self._lock = threading.Lock()
        self._starting: set[str] = set()
        self._purged = False
        # A job is looked at often, and its record no longer changes.
        self._arrived: LatestTasks[StartedJob] = LatestTasks(_ARRIVED_IN_MEMORY)

    @contextlib.contextmanager
    def starting(self, tag: str) -> Iterator[None]:
        """Keep other threads from starting a task with this tag. Raises `QpuBusy` if one does."""
        with self._lock:
            if tag in self._starting:
                raise QpuBusy(f"task {tag} is being started by another call")
            self._starting.add(tag)
        try:
            yield
        finally:
            with self._lock:
                self._starting.discard(tag)

    def check_room(
        self,
        target: Target,
        known: Collection[QpuTaskId],
        state_of: Callable[[QpuTaskId], TaskState],
    ) -> None:
        """Raise `QpuBusy` if a target takes no further task of this client, inside of `starting`.

        known: tasks that had not ended when they were last looked at. state_of: asks the server
        about one, which is done only if it matters.
        """
        most = target.max_concurrent_tasks
        with self._lock:
            others = len(self._starting) - 1
        if most is None or len(known) + others < most:
            return
        running = sum(_is_open(task, state_of) for task in known) + others
        if running >= most:
            raise QpuBusy(
                f"{target.name} has {running} tasks of this client and takes at most {most}; start "
                "again when one has ended"
            )

    def arrived(self, tag: str) -> StartedJob | None:
        """Return the record of a start that the server answered; None if there was no start.

        Raises `QpuUnavailable` if the answer is missing: a server that cannot be searched may run
        the job, so the start is not repeated.
        """
        known = self.read(tag)
        if known is not None and known.job is None:
            raise QpuUnavailable(
                f"an earlier start of {tag} got no answer, so it is not repeated: its job may run"
            )
        return known

    def send(self, record: StartedJob, submit: Callable[[], Any]) -> StartedJob:
        """Start a job, with its record on disk before the request.

        Args:
            record: Of the start, without a job.
            submit: Sends the request once and returns the job's id as the server states it.

        Returns:
            The record with the job.

        Raises:
            AccessDenied, CalibrationChanged, PayloadRejected, QpuBusy: By ``submit``; nothing was
                started, and the record is gone, or that of an earlier start without an answer is
                there again, which may have arrived.
            QpuUnavailable: By ``submit``, or for an id that is none; the job may run.
        """
        if not self._purged:
            self._purged = True
            self.purge(time.time() - _KEEP_S)
        earlier = self.read(record.tag)
        self.write(record)
        try:
            job = submit()
        except _NOTHING_STARTED:
            if earlier is None:
                self.remove(record.tag)
            else:
                self.write(earlier)
            raise
        if not isinstance(job, str) or not self._job_id.fullmatch(job):
            raise QpuUnavailable(f"the server accepted a job and calls it {job!r:.100}")
        accepted = record.accepted(job)
        self.write(accepted)
        return accepted

    def of_task(self, task: str, prefix: str) -> StartedJob:
        """Return the record of ``PREFIX:JOB:TAG``. Raises `UnknownTask` if there is none."""
        kind, _, rest = task.partition(":")
        job, _, tag = rest.partition(":")
        record = self.read(tag) if kind == prefix and is_tag(tag) else None
        if record is None or record.job != job:
            raise UnknownTask(f"no task {task!r:.200} was ever started here")
        return record

    def read(self, tag: str) -> StartedJob | None:
        """Return the record of a tag, which is a safe name of a file."""
        known = self._arrived.get(tag)
        if known is not None:
            return known
        try:
            stated: Mapping[str, Any] = json.loads(self._path(tag).read_bytes())
        except FileNotFoundError:
            return None
        return self._noted(StartedJob(**{**stated, "recipes": tuple(stated["recipes"])}))

    def write(self, record: StartedJob) -> None:
        """Add or replace a record; it is on disk when this returns."""
        stated = {name: getattr(record, name) for name in StartedJob.__dataclass_fields__}
        replace_durably(self._path(record.tag), json.dumps(stated).encode())
        self._noted(record)

    def answer(self, tag: str) -> Any:
        """Return what the server said at the end of a task, None if that is not stored."""
        try:
            return json.loads(self._answer_path(tag).read_bytes())
        except FileNotFoundError:
            return None

    def write_answer(self, tag: str, answer: Any) -> None:
        """Store what the server said at the end of a task."""
        replace_durably(self._answer_path(tag), json.dumps(answer).encode())

    def remove(self, tag: str) -> None:
        """Remove the record of a start that surely started nothing."""
        self._path(tag).unlink(missing_ok=True)
        self._arrived.forget(tag)

    def purge(self, before_s: float) -> None:
        """Remove records and answers older than a time, in seconds since the epoch.

        A start without an answer is kept: it must not be repeated, however long ago it was.
        """
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._folder):
                # One that cannot be read, as of another version, is kept.
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                    if entry.stat().st_mtime < before_s and self._is_over(Path(entry.path)):
                        Path(entry.path).unlink()
                        self._arrived.forget(Path(entry.path).stem)

    def _is_over(self, path: Path) -> bool:
        if path.suffix != ".json":  # an answer, or a draft of a process that was killed
            return True
        found = self.read(path.stem)
        return found is not None and found.job is not None

    def _noted(self, record: StartedJob) -> StartedJob:
        if record.job is None:
            self._arrived.forget(record.tag)
        else:
            self._arrived.note(record.tag, record)
        return record

    def _path(self, tag: str) -> Path:
        return self._folder / f"{tag}.json"

    def _answer_path(self, tag: str) -> Path:
        return self._folder / f"{tag}{_ANSWERS}"


def _is_open(task: QpuTaskId, state_of: Callable[[QpuTaskId], TaskState]) -> bool:
    try:
        return not state_of(task).is_final
    except UnknownTask:
        return False
