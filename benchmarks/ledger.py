"""What the ledger takes: commits of one and of many events, and a start after a million of them."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from backends.api import Usage
from backends.shapes import ItemShape
from benchmarks.rows import Row, interleaved
from benchmarks.setting import ROOT
from orchestrator.broker.core import events as ev
from orchestrator.broker.ledger import Entries, Ledger
from orchestrator.broker.ledger.tables import EVENT_COLUMNS, row_of
from orchestrator.identity import JobId

__all__ = ["measure"]

_JOBS = 250_000  # of four events each
_FEW = 40
_RUNS = 500
_SCOPE = "service"
_START = datetime(2026, 1, 1, tzinfo=UTC)
_OPEN = """
import json, sys, time
from pathlib import Path
from orchestrator.broker.ledger import Ledger
start = time.perf_counter()
ledger = Ledger.open(Path(sys.argv[1]))
state = ledger.restore("service")
took = time.perf_counter() - start
status = Path("/proc/self/status").read_text()
peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps({"took": took, "jobs": len(state.jobs), "peak": peak}))
"""


def measure() -> list[Row]:
    """Measure in a folder of the disk that temporary files are on."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [_append_row(folder, group) for group in (1, 8, 64)]
        large, small = folder / "large.sqlite", folder / "small.sqlite"
        _fill(large, _JOBS)
        _fill(small, _FEW)
        first = _open(large)
        for path in (large, small):
            _checkpoint(path)
        rows += _start_rows(first, _open(large), _open(small))
        rows += _query_rows(large, small)
    return rows


def _append_row(folder: Path, group: int) -> Row:
    """Time commits of some submissions with their payloads."""
    commits = 600 if group < 64 else 200
    with closing(Ledger.open(folder / f"append-{group}.sqlite")) as ledger:
        batches = [
            Entries(
                events=[(_submitted(number), _START) for number in numbers],
                payloads={f"{number:064x}": b"x" * 600 for number in numbers},
            )
            for numbers in (range(at * group, (at + 1) * group) for at in range(commits))
        ]
        start = time.perf_counter()
        for batch in batches:
            ledger.append(_SCOPE, batch)
        took = time.perf_counter() - start
    return _stated(
        f"durable events, {group} to a commit, SQLite",
        f"{group * commits / took:.0f} /s ({took / commits * 1e3:.2f} ms a commit)",
    )


def _start_rows(first: dict[str, Any], large: dict[str, Any], small: dict[str, Any]) -> list[Row]:
    return [
        _stated("first start on a million events, no snapshot", f"{first['took']:.1f} s"),
        Row(
            name="start on a million events",
            ours=f"{large['took'] * 1e3:.0f} ms",
            against=f"{small['took'] * 1e3:.0f} ms",
            what=f"start on {_FEW * 4} events",
            ratio=large["took"] / small["took"],
            goal="≤ 10 s",
            met=large["took"] <= 10,
        ),
        Row(
            name="peak memory after that start",
            ours=f"{large['peak'] / 2**20:.0f} MiB",
            against=f"{small['peak'] / 2**20:.0f} MiB",
            what=f"the same on {_FEW * 4} events (no snapshot: {first['peak'] / 2**20:.0f} MiB)",
            ratio=large["peak"] / small["peak"],
            goal="stated",
            met=None,
        ),
    ]


def _query_rows(large: Path, small: Path) -> list[Row]:
    with closing(Ledger.open(large)) as much, closing(Ledger.open(small)) as little:
        pairs: dict[str, Callable[[Ledger, int], object]] = {
            "the latest 20 jobs": lambda ledger, _: ledger.jobs(limit=20),
            "a job by the start of its id": lambda ledger, jobs: ledger.job(_id(jobs - 5)[:11]),
            "the latest 20 jobs of a run": lambda ledger, _: ledger.jobs("run1", 20),
            "all runs": lambda ledger, _: ledger.runs(),
        }
        rows = []
        for name, ask in pairs.items():
            ours, other = interleaved(
                [
                    lambda ask=ask: ask(much, _JOBS),  # type: ignore[misc]
                    lambda ask=ask: ask(little, _FEW),  # type: ignore[misc]
                ],
                rounds=50,
                warmup=5,
            )
            rows.append(
                Row(
                    name=f"{name}, of a million events",
                    ours=f"{ours * 1e3:.2f} ms",
                    against=f"{other * 1e3:.2f} ms",
                    what=f"the same of {_FEW * 4} events",
                    ratio=ours / other,
                    goal="≤ 2",
                    met=ours <= 2 * other,
                )
            )
    return rows


def _fill(path: Path, jobs: int) -> None:
    """Write jobs that have all ended, straight into the table."""
    Ledger.open(path).close()
    marks = ", ".join("?" * len(EVENT_COLUMNS))
    insert = f"INSERT INTO events ({', '.join(EVENT_COLUMNS)}) VALUES ({marks})"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.executemany(insert, _rows(jobs))
        connection.commit()


def _rows(jobs: int) -> Iterator[tuple[Any, ...]]:
    for number in range(jobs):
        at, tag = _START + timedelta(seconds=number), f"{_id(number)}.0"
        part = ev.Part(
            job=_id(number), pub=0, first_point=0, end_point=1, first_shot=0, end_shot=100
        )
        usage = Usage(qpu_seconds=0.5, shots=100, circuits=1, tasks=1)
        yield row_of(_SCOPE, _submitted(number), at)
        yield row_of(_SCOPE, ev.TaskPlanned(tag=tag, qpu="q", parts=(part,)), at)
        yield row_of(_SCOPE, ev.TaskStarted(tag=tag, qpu_task=str(number)), at)
        yield row_of(_SCOPE, ev.TaskCompleted(tag=tag, usage=usage), at + timedelta(seconds=1))


def _submitted(number: int) -> ev.JobSubmitted:
    return ev.JobSubmitted(
        job=_id(number),
        run=f"run{number % _RUNS if number >= _FEW else 1}",
        stage="energy",
        call=number,
        qpu="q",
        backend="aer",
        payload_kind="sampler",
        digest=f"{number:064x}",
        pubs=(ItemShape(points=1, shots=100),),
        num_qubits=8,
        seed=7,
        project="chemistry",
        user="ada",
    )


def _id(number: int) -> JobId:
    return JobId("j" + hashlib.blake2b(str(number).encode(), digest_size=10).hexdigest())


def _checkpoint(path: Path) -> None:
    """Move all that has ended out of the state, as a service does little by little."""
    with closing(Ledger.open(path)) as ledger:
        state = ledger.restore(_SCOPE)
        while gone := ledger.checkpoint(_SCOPE, state, most=100_000):
            state.forget(gone)


def _open(path: Path) -> dict[str, Any]:
    """Open and restore in a process of its own."""
    command = [sys.executable, "-c", _OPEN, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _stated(name: str, ours: str) -> Row:
    return Row(name=name, ours=ours, against="–", what="–", ratio=None, goal="stated", met=None)
