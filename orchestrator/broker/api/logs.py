"""The service's log: one line for each event, as JSON for machines or as text for people.

Lines name jobs and people, never payloads, results, tokens or options of backends.
"""

from __future__ import annotations

import json
import logging
import threading
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
# At most so many records of the same place and words are written in this time.
_MOST_REPEATS, _REPEATS_S = 5, 60.0
_MOST_PLACES = 1000
_TEXT_FIRST = ("time", "level", "event")
_JOB_FACTS = ("run", "stage", "job", "qpu", "user", "project")
# Level, name, fields and further facts of the line of an event.
_LINES: Mapping[type[Any], tuple[str, str, tuple[str, ...], _Entry]] = {
    ev.JobSubmitted: ("info", "accepted", (), {}),
    ev.JobResumed: ("info", "retried", (), {}),
    ev.JobRefused: ("warning", "refused", ("reason",), {}),
    ev.JobFailedOver: ("warning", "failed-over", ("reason",), {}),
    ev.JobCancelRequested: ("info", "cancelled", (), {}),
    ev.QpuDrained: ("warning", "drained", ("qpu", "by", "reason"), {}),
    ev.QpuResumed: ("info", "resumed", ("qpu", "by"), {}),
    ev.TaskStarted: ("info", "started", ("tag", "qpu_task"), {}),
    ev.TaskAdopted: ("info", "started", ("tag", "qpu_task"), {"found_again": True}),
    ev.TaskCompleted: ("info", "ended", ("tag",), {"state": "completed"}),
    ev.TaskErred: ("warning", "ended", ("tag", "error_type", "error"), {"state": "failed"}),
    ev.TaskStopped: ("info", "ended", ("tag",), {"state": "cancelled"}),
    ev.TaskUncertain: ("warning", "uncertain", ("tag", "reason"), {}),
    ev.TaskResolved: ("warning", "resolved", ("tag", "verdict", "by", "reason"), {}),
}
# Events that are logged under their kind with every field, and those with code of their own.
_WHOLE = (
    ev.LeaseOpened,
    ev.LeaseClosed,
    ev.BudgetSet,
    ev.QpuRecalibrated,
    ev.QpuAccessLost,
    ev.QpuAccessRegained,
    ev.GrantConfirmed,
    ev.GrantSuspended,
    ev.GrantEnded,
)
_OWN = (ev.BrokerOpened, ev.QpuChosen, ev.TaskPlanned)


def log_entries(commit: Commit, state: BrokerState) -> Iterator[_Entry]:
    """Yield the log entries of a commit. state: after the commit."""
    if commit.error is not None:
        yield log_entry(commit.at, "error", "ledger-failed", reason=str(commit.error))
        return
    for event in commit.events:
        yield from _entries(event, commit.at, state)


def _entries(event: ev.Event, at: datetime, state: BrokerState) -> Iterator[_Entry]:
    if isinstance(event, ev.TaskPlanned):
        return
    if isinstance(event, ev.BrokerOpened):
        number = sum(not record.state.is_final for record in state.jobs.values())
        yield log_entry(at, "info", "opened", open_jobs=number)
    elif isinstance(event, ev.QpuChosen):
        chosen = event.choice
        level = "info" if chosen.qpu else "warning"
        named = {"run": event.run, "stage": event.stage, "user": event.user}
        facts = {"project": event.project, "qpu": chosen.qpu, "reason": chosen.reason}
        yield log_entry(at, level, "chosen", **named, **facts)
    elif isinstance(event, _WHOLE):
        facts = to_plain(event)
        facts.pop("at", None)  # the entry has the time of the commit
        yield log_entry(at, "info", event.kind, **facts)
    else:
        level, name, fields, more = _LINES[type(event)]
        facts = {field: getattr(event, field) for field in fields} | more
        task = state.tasks.get(getattr(event, "tag", ""))
        jobs: tuple[Any, ...] = (getattr(event, "job", None),) if task is None else task.jobs
        for job in jobs:  # a line for each, so that every line can be found by its job
            used = _used(event, task, job) if task else {}
            yield log_entry(at, level, name, **_job_facts(event, job, state), **facts, **used)


def _job_facts(event: ev.Event, job: JobId, state: BrokerState) -> _Entry:
    record = state.jobs.get(job)
    submitted = event if isinstance(event, ev.JobSubmitted) else record and record.submitted
    if submitted is None:
        return {"job": job}
    return {field: getattr(submitted, field) for field in _JOB_FACTS}


def _used(event: ev.Event, task: TaskRecord, job: JobId) -> _Entry:
    if not isinstance(event, ev.TaskCompleted):
        return {}
    seconds = round(event.usage.qpu_seconds * task.share(job), 6)
    return {"qpu_seconds": seconds, "late": task.late or None}


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


def _word(value: Any) -> str:
    text = str(value)
    plain = text and text.isprintable() and not set(text) & set(' "=')
    return text if plain else visible_json(json.dumps(text, ensure_ascii=False))


class LineWriter:
    """Writes entries to a stream on its own thread, in order; never blocks its callers."""

    def __init__(self, stream: IO[str], form: LogFormat) -> None:
        self._stream = stream
        self._line: Callable[[Mapping[str, Any]], str] = json_line if form == "json" else text_line
        self._waiting: list[_Entry] = []
        self._dropped, self._closed = 0, False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="hpcqc-log", daemon=True)
        self._thread.start()

    def write(self, *entries: _Entry) -> None:
        """Queue entries; from any thread."""
        with self._changed:
            if not self._closed:
                room = _MOST_WAITING - len(self._waiting)
                self._waiting += entries[:room]
                self._dropped += len(entries[room:])
                self._changed.notify()

    def close(self) -> None:
        """Write the queued entries, for at most two seconds, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                batch, self._waiting = self._waiting, []
                dropped, self._dropped = self._dropped, 0
            if dropped:
                now = datetime.now(UTC)
                batch.append(log_entry(now, "warning", "log-lines-dropped", number=dropped))
            if not batch:
                return
            try:
                self._stream.write("".join(map(self._line, batch)))
                self._stream.flush()
            except (OSError, ValueError):  # the stream is closed; the ledger has every event
                self._closed = True
                return


def capture_logging(writer: LineWriter) -> None:
    """Write what libraries log, from warnings upwards, to the same stream."""
    root = logging.getLogger()
    root.addHandler(_Relay(writer))
    root.setLevel(logging.WARNING)


class _Relay(logging.Handler):
    """Writes what libraries log; of records that repeat only the first few, and their number."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer
        self._plain = logging.Formatter()
        # By logger, first words, level, place and exception: when it was first, and how often.
        self._repeats: dict[tuple[object, ...], tuple[float, int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        at = datetime.fromtimestamp(record.created, UTC)
        self._forget(at)
        words = str(record.msg).partition("\n")[0][:100]
        kind = record.exc_info[0] if record.exc_info else None
        key = (record.name, words, record.levelno, record.pathname, record.lineno, kind)
        since, number = self._repeats.get(key, (record.created, 0))
        self._repeats[key] = (since, number + 1)
        if number < _MOST_REPEATS:
            trace = self._plain.formatException(record.exc_info) if record.exc_info else None
            facts = {"logger": record.name, "message": record.getMessage(), "trace": trace}
            self._writer.write(log_entry(at, record.levelname.lower(), "log", **facts))

    def _forget(self, at: datetime) -> None:
        """Drop old counts, all if there are too many; log how many records were left out."""
        everything = len(self._repeats) >= _MOST_PLACES
        for key, (since, number) in list(self._repeats.items()):
            if everything or at.timestamp() - since >= _REPEATS_S:
                del self._repeats[key]
                if number > _MOST_REPEATS:
                    facts = {"logger": key[0], "line": key[1], "number": number - _MOST_REPEATS}
                    self._writer.write(log_entry(at, "warning", "log-lines-repeated", **facts))
