"""What the service did, one line for each event, as JSON for machines or as text for people.

Lines name jobs and people, never payloads, results, tokens or options of backends.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import IO, Any, Literal

from orchestrator.broker.core import events as ev
from orchestrator.broker.core.codec import to_plain
from orchestrator.broker.core.records import TaskRecord
from orchestrator.broker.core.state import BrokerState
from orchestrator.broker.runtime.event_loop import Commit
from orchestrator.identity import JobId
from orchestrator.wording import visible_json

__all__ = [
    "LineWriter",
    "LogFormat",
    "capture_logging",
    "json_line",
    "log_entries",
    "log_entry",
    "text_line",
]

LogFormat = Literal["json", "text"]
_Entry = dict[str, Any]

# A reader that does not read must not stop the broker: lines beyond these are dropped and counted.
_MOST_WAITING = 10_000
_CLOSE_S = 2.0
# Of lines that one place in the code logs with the same words, so many are written in a minute.
_MOST_ALIKE, _ALIKE_S = 5, 60.0
_MOST_PLACES = 1000
_TEXT_FIRST = ("time", "level", "event")


def log_entries(commit: Commit, state: BrokerState) -> Iterator[_Entry]:
    """Yield what is to be told of a commit. state: as it is after it."""
    if commit.error is not None:
        yield log_entry(commit.at, "error", "ledger-failed", reason=str(commit.error))
        return
    for event in commit.events:
        for level, name, facts in _told(event, state):
            yield log_entry(commit.at, level, name, **facts)


def log_entry(at: datetime, level: str, name: str, **facts: Any) -> _Entry:
    """Return an entry; facts that are None are left out."""
    entry: _Entry = {"time": at.isoformat(timespec="milliseconds"), "level": level, "event": name}
    return entry | {key: value for key, value in facts.items() if value is not None}


def json_line(entry: Mapping[str, Any]) -> str:
    """Return an entry as one line of JSON."""
    return visible_json(json.dumps(entry, ensure_ascii=False, default=str)) + "\n"


def text_line(entry: Mapping[str, Any]) -> str:
    """Return an entry as one line for people; a value with blanks or control signs is quoted."""
    at = str(entry["time"])[:23].replace("T", " ")
    rest = [f"{k}={_word(v)}" for k, v in entry.items() if k not in _TEXT_FIRST and v is not None]
    return " ".join([at, str(entry["level"]).upper().ljust(7), str(entry["event"]), *rest]) + "\n"


class LineWriter:
    """Writes entries to a stream on a thread of its own, in order; never blocks who hands them in."""

    def __init__(self, stream: IO[str], form: LogFormat) -> None:
        """Take note of the stream; the first entry starts the thread."""
        self._stream = stream
        self._line: Callable[[Mapping[str, Any]], str] = json_line if form == "json" else text_line
        self._waiting: deque[_Entry] = deque()
        self._changed = threading.Condition()
        self._dropped, self._closed = 0, False
        self._thread: threading.Thread | None = None

    def write(self, *entries: _Entry) -> None:
        """Hand in entries; from any thread."""
        with self._changed:
            if self._closed:
                return
            taken = entries[: _MOST_WAITING - len(self._waiting)]
            self._dropped += len(entries) - len(taken)
            self._waiting.extend(taken)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hpcqc-log", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Write what waits, for a short while, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            try:
                self._stream.write("".join(map(self._line, batch)))
                self._stream.flush()
            except (OSError, ValueError):  # nobody reads any more; the ledger has it all
                with self._changed:
                    self._closed = True
                    self._waiting.clear()
                return

    def _next(self) -> list[_Entry] | None:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            batch = list(self._waiting)
            self._waiting.clear()
            if self._dropped:
                lost = log_entry(
                    datetime.now(UTC), "warning", "log-lines-dropped", number=self._dropped
                )
                batch.append(lost)
                self._dropped = 0
            return batch or None


def capture_logging(writer: LineWriter) -> None:
    """Let what libraries log from warnings upwards go the same way."""
    root = logging.getLogger()
    root.addHandler(_Relay(writer))
    root.setLevel(logging.WARNING)


class _Relay(logging.Handler):
    """Writes what libraries log; of lines that repeat only the first few, and then their number."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer
        self._plain = logging.Formatter()
        self._alike: dict[tuple[object, ...], tuple[float, int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        at = datetime.fromtimestamp(record.created, UTC)
        for place, lines in self._over(record.created):
            facts = {"logger": place[0], "line": place[1], "number": lines}
            self._writer.write(log_entry(at, "warning", "log-lines-repeated", **facts))
        place = _place(record)
        since, lines = self._alike.get(place, (record.created, 0))
        self._alike[place] = (since, lines + 1)
        if lines >= _MOST_ALIKE:
            return
        facts = {"logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            facts["trace"] = self._plain.formatException(record.exc_info)
        self._writer.write(log_entry(at, record.levelname.lower(), "log", **facts))

    def _over(self, now: float) -> Iterator[tuple[tuple[object, ...], int]]:
        """Forget what began more than a minute ago; yield how many lines were left out, if any."""
        over = [place for place, (since, _) in self._alike.items() if now - since >= _ALIKE_S]
        for place in over if len(self._alike) < _MOST_PLACES else list(self._alike):
            _, lines = self._alike.pop(place)
            if lines > _MOST_ALIKE:
                yield place, lines - _MOST_ALIKE


def _place(record: logging.LogRecord) -> tuple[object, ...]:
    """Return what two records share that say the same: their place, first words and exception."""
    words = str(record.msg).partition("\n")[0][:100]
    kind = record.exc_info[0] if record.exc_info else None
    return record.name, words, record.levelno, record.pathname, record.lineno, kind


def _told(event: ev.Event, state: BrokerState) -> Iterator[tuple[str, str, _Entry]]:
    match event:
        case ev.JobSubmitted():
            yield "info", "accepted", _of_job(event)
        case ev.JobResumed(job=job):
            yield "info", "retried", _known(job, state)
        case ev.JobCancelRequested(job=job):
            yield "info", "cancelled", _known(job, state)
        case ev.QpuDrained():
            yield "warning", "drained", {"qpu": event.qpu, "by": event.by, "reason": event.reason}
        case ev.QpuResumed():
            yield "info", "resumed", {"qpu": event.qpu, "by": event.by}
        case ev.BrokerOpened():
            yield "info", "opened", {"open_jobs": sum(1 for _ in _open(state))}
        case ev.TaskPlanned():
            return
        case _ if hasattr(event, "tag"):
            yield from _told_of_task(event, state)
        case _:  # leases, budgets and the like
            facts = to_plain(event)
            facts.pop("at", None)  # the entry has the time at which this was noticed
            yield "info", event.kind, facts


def _told_of_task(event: Any, state: BrokerState) -> Iterator[tuple[str, str, _Entry]]:
    """Yield a line for each job in the task, so that every line can be found by its job."""
    task = state.tasks.get(event.tag)
    level, name, facts = _fate(event)
    if task is None:
        yield level, name, {"tag": event.tag, **facts}
        return
    for job in task.jobs:
        used = _used(event, task, job)
        yield level, name, {**_known(job, state), "tag": event.tag, **facts, **used}


def _fate(event: Any) -> tuple[str, str, _Entry]:
    match event:
        case ev.TaskStarted():
            return "info", "started", {"qpu_task": event.qpu_task}
        case ev.TaskAdopted():
            return "info", "started", {"qpu_task": event.qpu_task, "found_again": True}
        case ev.TaskCompleted():
            return "info", "ended", {"state": "completed"}
        case ev.TaskErred():
            facts = {"state": "failed", "error_type": event.error_type, "error": event.error}
            return "warning", "ended", facts
        case ev.TaskStopped():
            return "info", "ended", {"state": "cancelled"}
        case ev.TaskUncertain():
            return "warning", "uncertain", {"reason": event.reason}
        case _:
            facts = {"verdict": event.verdict, "by": event.by, "reason": event.reason}
            return "warning", "resolved", facts


def _used(event: Any, task: TaskRecord, job: JobId) -> _Entry:
    if not isinstance(event, ev.TaskCompleted):
        return {}
    seconds = event.usage.qpu_seconds * task.share(job)
    return {"qpu_seconds": round(seconds, 6)} | ({"late": True} if task.late else {})


def _known(job: JobId, state: BrokerState) -> _Entry:
    record = state.jobs.get(job)
    return {"job": job} if record is None else _of_job(record.submitted)


def _of_job(submitted: ev.JobSubmitted) -> _Entry:
    return {
        "run": submitted.run,
        "stage": submitted.stage,
        "job": submitted.job,
        "qpu": submitted.qpu,
        "user": submitted.user,
        "project": submitted.project,
    }


def _open(state: BrokerState) -> Iterator[JobId]:
    return (job for job, record in state.jobs.items() if not record.state.is_final)


def _word(value: Any) -> str:
    text = str(value)
    plain = text and text.isprintable() and not set(text) & set(' "=')
    return text if plain else visible_json(json.dumps(text, ensure_ascii=False))
