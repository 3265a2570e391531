"""Workloads in the Standard Workload Format, a quantum stage made up for each job by a rule."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from orchestrator.broker.events import JobSubmitted, PubShape
from orchestrator.broker.simulation.workload import Arrival, Workload, WorkloadError
from orchestrator.broker.views import JobId

__all__ = ["QuantumRule", "parse_swf", "read_swf"]

_FIELDS = 18
_FOUND_WRONG = 3
_START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantumRule:
    """The quantum stage of a classical job: one sampler call.

    Of ``circuits = round(circuits_per_processor · processors)``, at least one, with
    ``shots = round(shots_per_second · run time)`` each, at least ``least_shots``, on ``qubits``
    qubits. So a wide job has many circuits, and a long one many shots.
    """

    circuits_per_processor: float = 1.0
    shots_per_second: float = 1.0
    least_shots: int = 100
    qubits: int = 5

    def shape(self, run_s: float, processors: int) -> PubShape:
        """Return the PUB of a job."""
        return PubShape(
            points=max(1, round(self.circuits_per_processor * processors)),
            shots=max(self.least_shots, round(self.shots_per_second * run_s)),
            num_qubits=self.qubits,
        )

    def __str__(self) -> str:
        """Return the rule as a sentence."""
        return (
            f"each job has one sampler call of {self.circuits_per_processor:g} circuits for each of its "
            f"processors, with {self.shots_per_second:g} shots for each second of its run time, at "
            f"least {self.least_shots}, on {self.qubits} qubits"
        )


@dataclass(slots=True)
class _Reading:
    rule: QuantumRule
    start: datetime = _START
    lines: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def arrival(self, fields: Sequence[str]) -> Arrival | None:
        """Return a line's job, None if there is none in it. Raises ValueError for a wrong line."""
        if len(fields) != _FIELDS:
            raise ValueError(f"{len(fields)} fields, not {_FIELDS}")
        number, submitted_s, run_s = int(fields[0]), float(fields[1]), float(fields[3])
        processors = int(fields[4]) if int(fields[4]) > 0 else int(fields[7])
        user, group = int(fields[11]), int(fields[12])
        if submitted_s < 0 or not submitted_s < 1e11 or not run_s < 1e11:
            raise ValueError(f"submitted at {fields[1]}, run time {fields[3]}")
        if run_s < 0:
            self.left_out["without a run time"] += 1
            return None
        if processors <= 0:
            self.left_out["without processors"] += 1
            return None
        name = str(number)
        job = JobSubmitted(
            job=JobId(f"swf{number:07d}"),
            run=name,
            stage=None,
            call=0,
            qpu="",
            backend="",
            payload_kind="sampler",
            digest=name,
            pubs=(self.rule.shape(run_s, processors),),
            num_qubits=self.rule.qubits,
            seed=None,
            project=f"group{group}" if group >= 0 else "",
            user=f"user{user}" if user >= 0 else "",
        )
        return Arrival(at=self.start + timedelta(seconds=submitted_s), job=job)

    def comment(self, line: str) -> None:
        """Take the date from the header, if it is there."""
        key, _, value = line.lstrip("; ").partition(":")
        if key.strip() == "UnixStartTime" and value.strip().isdigit():
            seconds = int(value)
            if 0 < seconds < 1 << 33:
                self.start = datetime.fromtimestamp(seconds, UTC)

    def notes(self) -> Iterator[str]:
        """Say by which rule jobs were made, and what was left out."""
        yield str(self.rule)
        for reason, count in sorted(self.left_out.items()):
            yield f"{count:,} jobs {reason} left out"
        if self.wrong:
            shown = "; ".join(self.wrong[:_FOUND_WRONG])
            yield f"{self.left_out_lines:,} malformed lines left out, such as {shown}"

    @property
    def left_out_lines(self) -> int:
        """How many lines were malformed."""
        return len(self.wrong)


def parse_swf(lines: Iterable[str], name: str, rule: QuantumRule) -> Workload:
    """Return the jobs of a workload's lines; those that are malformed are counted in its notes.

    Raises `WorkloadError` if it is no such file at all: more lines are malformed than are not.
    """
    reading, arrivals, known = _Reading(rule), [], set()
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        if text.startswith(";"):
            reading.comment(text)
            continue
        reading.lines += 1
        try:
            arrival = reading.arrival(text.split())
            if arrival is not None and arrival.job.job in known:
                raise ValueError(f"job {text.split()[0]} is there already")
        except (ValueError, OverflowError) as error:
            reading.wrong.append(f"line {number}: {' '.join(str(error).split())[:80]}")
            continue
        if arrival is not None:
            known.add(arrival.job.job)
            arrivals.append(arrival)
    if reading.wrong and 2 * len(reading.wrong) > reading.lines:
        raise WorkloadError(
            f"{name} is not in the Standard Workload Format: {len(reading.wrong):,} of "
            f"{reading.lines:,} lines are malformed, the first: {reading.wrong[0]}; each line has "
            f"{_FIELDS} numbers, comments begin with ';'"
        )
    return Workload.of(name, arrivals, reading.notes())


def read_swf(path: Path, rule: QuantumRule) -> Workload:
    """Read a workload file, compressed if its name ends in .gz. Raises `WorkloadError`."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8", errors="replace") as file:
            return parse_swf(file, path.name, rule)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise WorkloadError(f"{path} is no whole gzip file: {error}") from None
    except OSError as error:
        raise WorkloadError(f"cannot read the workload {path}: {error.strerror}") from None
