"""Where workloads come from: a seeded mix, a ledger, or a file in the Standard Workload Format."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backends.shapes import ItemShape
from orchestrator.broker.core.events import JobSubmitted
from orchestrator.identity import JobId
from orchestrator.simulation.workload import Arrival, Workload, WorkloadError
from orchestrator.text_files import TextFileError, lines_of, read_text
from orchestrator.wording import counted

__all__ = ["Mix", "QuantumRule", "made_up", "parse_swf", "read_recorded", "read_swf"]

_MIX_START = datetime(2026, 1, 5, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """How a mix is made: both kinds come at random times (Poisson), each at its own pace.

    jobs: in all. short: the part of them that is short: one circuit of 100 to 2000 shots, of one of
    ``users`` people of project ``interactive``. The others are a sweep of 20 to 100 circuits of
    1000 to 8000 shots, of one of three people of project ``batch``. mean_gap_s: between two jobs.
    """

    seed: int
    jobs: int = 2000
    short: float = 0.9
    users: int = 12
    mean_gap_s: float = 15.0


def made_up(mix: Mix) -> Workload:
    """Return the jobs; equal settings give equal ones."""
    note = (
        f"made up with seed {mix.seed}: {mix.short:.0%} short jobs of one circuit, 100 to 2000 "
        "shots; the others sweeps of 20 to 100 circuits, 1000 to 8000 shots each"
    )
    return Workload.of(f"mix {mix.seed}", _arrivals(mix), [note])


def _arrivals(mix: Mix) -> Iterator[Arrival]:
    dice, at_s = random.Random(mix.seed), 0.0
    for number in range(mix.jobs):
        at_s += dice.expovariate(1 / mix.mean_gap_s)
        is_short = dice.random() < mix.short
        points = 1 if is_short else dice.randint(20, 100)
        shots = dice.randint(100, 2000) if is_short else dice.randint(1000, 8000)
        user = dice.randrange(mix.users if is_short else 3)
        name = f"mix{number:06d}"
        job = JobSubmitted(
            job=JobId(name),
            run=name,
            stage=None,
            call=0,
            qpu="",
            backend="",
            payload_kind="sampler",
            digest=name,
            pubs=(ItemShape(points=points, shots=shots, num_qubits=5, depth=20),),
            num_qubits=5,
            seed=None,
            project="interactive" if is_short else "batch",
            user=f"user{user}",
        )
        yield Arrival(at=_MIX_START + timedelta(seconds=at_s), job=job)


def read_recorded(path: Path, *, scope: str | None = None, qpu: str | None = None) -> Workload:
    """Return the jobs of a ledger, of one scope or all, for one QPU or all.

    Their times stay as they were, also of jobs that really waited for others to end. Raises
    `WorkloadError` if there is no such file, scope or job; ``LedgerError``.
    """
    from orchestrator.broker.ledger import Ledger  # SQLAlchemy is slow to load

    if not path.is_file():  # opening would make one
        raise WorkloadError(f"{path} is not a file; give the ledger's file, such as ledger.sqlite")
    arrivals: dict[str, Arrival] = {}
    elsewhere: Counter[str] = Counter()
    with closing(Ledger.open(path)) as ledger:
        scopes = ledger.runs()
        if scope is not None and scope not in scopes:
            raise WorkloadError(
                f"ledger {path} has no scope {scope!r}; it has: {', '.join(scopes[:10]) or 'none'}"
            )
        for name in [scope] if scope is not None else scopes:
            for event, at in ledger.events(name):
                if not isinstance(event, JobSubmitted):
                    continue
                if qpu not in (None, event.qpu):
                    elsewhere[event.qpu] += 1
                    continue
                # What was expected and set aside then, the simulated broker finds out by itself.
                job = replace(event, predicted_s=None, reserved=None)
                arrivals.setdefault(event.job, Arrival(at=at, job=job))
    notes = ["as recorded, with the times of submission unchanged"]
    if elsewhere:
        others = ", ".join(f"{name} ({count:,})" for name, count in sorted(elsewhere.items()))
        notes.append(f"jobs for other QPUs left out: {others}")
    return Workload.of(path.name, arrivals.values(), notes)


_FIELDS = 18
_FOUND_WRONG = 3
_PARTIAL = frozenset({2, 3, 4})  # status of a part: to be continued, the last, the last and failed
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

    def shape(self, run_s: float, processors: int) -> ItemShape:
        """Return the PUB of a job."""
        return ItemShape(
            points=max(1, round(self.circuits_per_processor * processors)),
            shots=max(self.least_shots, round(self.shots_per_second * run_s)),
            num_qubits=self.qubits,
        )

    def __str__(self) -> str:
        return (
            f"each job has one sampler call of {self.circuits_per_processor:g} circuits for each of its "
            f"processors, with {self.shots_per_second:g} shots for each second of its run time, at "
            f"least {self.least_shots}, on {self.qubits} qubits"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A line about a job, or about a part of its execution; -1 is unknown."""

    number: int
    submitted_s: float
    run_s: float
    processors: int
    user: int
    group: int
    is_part: bool

    @classmethod
    def of(cls, fields: Sequence[str]) -> _Line:
        """Read the fields. Raises ValueError for a wrong line."""
        if len(fields) != _FIELDS:
            raise ValueError(f"{len(fields)} fields, not {_FIELDS}")
        line = cls(
            number=int(fields[0]),
            submitted_s=float(fields[1]),
            run_s=float(fields[3]),
            processors=int(fields[4]) if int(fields[4]) > 0 else int(fields[7]),
            user=int(fields[11]),
            group=int(fields[12]),
            is_part=int(fields[10]) in _PARTIAL,
        )
        # Later parts of a job have no time at which they were submitted.
        earliest = -1 if line.is_part else 0
        if not earliest <= line.submitted_s < 1e11 or not line.run_s < 1e11:
            raise ValueError(f"submitted at {fields[1]}, run time {fields[3]}")
        return line

    def joined(self, later: _Line) -> _Line:
        """Return the job of two parts: it ran as long as both together."""
        return replace(
            self,
            submitted_s=self.submitted_s if self.submitted_s >= 0 else later.submitted_s,
            run_s=max(self.run_s, 0.0) + max(later.run_s, 0.0),
            processors=max(self.processors, later.processors),
        )


@dataclass(slots=True)
class _Reading:
    rule: QuantumRule
    start: datetime = _START
    lines: int = 0
    jobs: dict[int, _Line] = field(default_factory=dict)
    parts: dict[int, _Line] = field(default_factory=dict)
    part_lines: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, line: _Line) -> None:
        """Take in a line: a whole job's, or one of its parts'. Raises ValueError if it is double."""
        if line.is_part:
            known = self.parts.get(line.number)
            self.parts[line.number] = line if known is None else known.joined(line)
            self.part_lines += 1
        elif line.number in self.jobs:
            raise ValueError(f"job {line.number} is there already")
        else:
            self.jobs[line.number] = line

    def arrivals(self) -> Iterator[Arrival]:
        """Return the jobs. One without a line for the whole is made of its parts."""
        for line in (self.parts | self.jobs).values():
            reason = (
                "without a run time"
                if line.run_s < 0
                else "without processors"
                if line.processors <= 0
                else "without a submit time"
                if line.submitted_s < 0
                else ""
            )
            if reason:
                self.left_out[reason] += 1
            else:
                yield self._arrival(line)

    def _arrival(self, line: _Line) -> Arrival:
        name = str(line.number)
        job = JobSubmitted(
            job=JobId(f"swf{line.number:07d}"),
            run=name,
            stage=None,
            call=0,
            qpu="",
            backend="",
            payload_kind="sampler",
            digest=name,
            pubs=(self.rule.shape(line.run_s, line.processors),),
            num_qubits=self.rule.qubits,
            seed=None,
            project=f"group{line.group}" if line.group >= 0 else "",
            user=f"user{line.user}" if line.user >= 0 else "",
        )
        return Arrival(at=self.start + timedelta(seconds=line.submitted_s), job=job)

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
        if self.part_lines:
            of = counted(len(self.parts), "job")
            yield f"{counted(self.part_lines, 'partial execution')} taken as parts of {of}"
        for reason, count in sorted(self.left_out.items()):
            yield f"{counted(count, 'job')} {reason} left out"
        if self.wrong:
            shown = "; ".join(self.wrong[:_FOUND_WRONG])
            yield f"{counted(len(self.wrong), 'malformed line')} left out, such as {shown}"


def parse_swf(lines: Iterable[str], name: str, rule: QuantumRule) -> Workload:
    """Return the jobs of a workload's lines; those that are malformed are counted in its notes.

    Lines of partial executions (status 2 to 4) are parts of one job: the line of the whole job
    (status 0, 1 or 5) counts, or their sum where there is none. Source: the Standard Workload
    Format, version 2.2, https://www.cs.huji.ac.il/labs/parallel/workload/swf.html.

    Raises `WorkloadError` if more than half of the lines are malformed.
    """
    reading = _Reading(rule)
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        if text.startswith(";"):
            reading.comment(text)
            continue
        reading.lines += 1
        try:
            reading.add(_Line.of(text.split()))
        except (ValueError, OverflowError) as error:
            reading.wrong.append(f"line {number}: {' '.join(str(error).split())[:80]}")
    if reading.wrong and 2 * len(reading.wrong) > reading.lines:
        raise WorkloadError(
            f"{name} is not in the Standard Workload Format: {len(reading.wrong):,} of "
            f"{counted(reading.lines, 'line')} are malformed, the first: {reading.wrong[0]}; each "
            f"line has {_FIELDS} numbers, comments begin with ';'"
        )
    return Workload.of(name, list(reading.arrivals()), reading.notes())


def read_swf(path: Path, rule: QuantumRule) -> Workload:
    """Read a workload file, compressed with gzip or not. Raises `WorkloadError`."""
    try:
        text = read_text(path, fallback="latin-1")
    except TextFileError as error:
        raise WorkloadError(f"cannot read the workload {error}") from None
    return parse_swf(lines_of(text), path.name, rule)
