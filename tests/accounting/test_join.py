"""The join of Slurm's accounting and the ledger: sums of invented books, and each difference."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import isclose
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.accounting.entries import (
    AccountBooks,
    Period,
    QpuHold,
    QuantumUse,
    RunFacts,
    RunKey,
    TaskUse,
    attempts_of,
    held_by,
)
from orchestrator.accounting.join import GROUPS, Accounting, DifferenceKind, join, joined_user
from orchestrator.identity import SlurmTag, slurm_job_name
from orchestrator.slurm.states import AccountedJob, SlurmState, parse_accounting

DAY = datetime(2026, 11, 29, tzinfo=UTC)
ALL = Period(since=DAY - timedelta(days=30), until=DAY + timedelta(days=30))
NOW = DAY + timedelta(days=2)
OWN, OTHER = "0000000a", "0000000b"  # state folders
HOLDS = (QpuHold(qpu="vlq", tres=("gres/qpu",), partition="quantum"),)
KINDS = DifferenceKind


def at(seconds: float) -> datetime:
    return DAY + timedelta(seconds=seconds)


def slurm_job(
    number: int,
    begin: float | None,
    end: float | None,
    *,
    run: str = "scan",
    purpose: str = "worker",
    **changes: Any,
) -> AccountedJob:
    """Return an attempt of a job of ours that had its nodes from begin to end, in seconds of the day."""
    tres = {"cpu": 4.0, "node": 1.0} | ({"gres/qpu": 1.0} if purpose == "qpu" else {})
    elapsed = 0.0 if begin is None else ((end if end is not None else 3600.0) - begin)
    values: dict[str, Any] = {
        "id": number,
        "name": slurm_job_name(run, purpose),
        "user": "ada",
        "account": "chem",
        "partition": "quantum" if purpose == "qpu" else "classical",
        "state": SlurmState.COMPLETED if end is not None else SlurmState.RUNNING,
        "submitted_at": at((begin or 0) - 1),
        "started_at": None if begin is None else at(begin),
        "ended_at": None if end is None else at(end),
        "elapsed_s": elapsed,
        "node_count": 1,
        "cpus": 4,
        "tres": tres,
        "comment": str(SlurmTag(run, purpose, number)),
    }
    return AccountedJob(**(values | changes))


def quantum(job: str, begin: float, end: float, *, run: str = "scan", **changes: Any) -> QuantumUse:
    task = TaskUse(
        started_at=at(begin), ended_at=at(end), qpu_seconds=end - begin, charges={"billed-s": 1.0}
    )
    values: dict[str, Any] = {
        "job": job,
        "run": run,
        "user": "",
        "qpu": "vlq",
        "submitted_at": at(begin - 1),
        "tasks": (task,),
    }
    return QuantumUse(**(values | changes))


def joined(
    *jobs: AccountedJob | QuantumUse, runs: tuple[str, ...] = ("scan",), **changes: Any
) -> Accounting:
    """Join books with these entries, of which the reader, ada, has registered ``runs``."""
    values: dict[str, Any] = {
        "user": "ada",
        "attempts": [job for job in jobs if isinstance(job, AccountedJob)],
        "quantum": [job for job in jobs if isinstance(job, QuantumUse)],
        "runs": [RunFacts(run=run, user="ada", flow="f", coupling="split") for run in runs],
        "registered": {"ada"},
        "holds": HOLDS,
    }
    period, now = changes.pop("period", ALL), changes.pop("now", NOW)
    by = changes.pop("by", "project")
    return join(AccountBooks(**(values | changes)), period, now, by)


def kinds(found: Accounting) -> list[str]:
    return [str(one.kind) for one in found.differences]


names = st.sampled_from(["scan", "night", "a:b", "scan-2", "Größe"])
users = st.sampled_from(["ada", "bob", "cy"])
counts = st.integers(0, 5)


@st.composite
def attempts(draw: Any) -> AccountedJob:
    begin = draw(st.none() | st.integers(0, 200_000))
    length = draw(st.none() | st.integers(0, 90_000))
    end = None if begin is None or length is None else begin + length
    purpose = draw(st.sampled_from(["worker", "stage", "qpu", "driver", "allocation"]))
    run = draw(names)
    job = slurm_job(draw(st.integers(1, 40)), begin, end, run=run, purpose=purpose)
    elapsed = 0.0 if begin is None else float(draw(st.integers(0, (end or begin + 50_000) - begin)))
    elsewhere = str(SlurmTag(run, purpose, job.id, draw(st.sampled_from([OWN, OTHER]))))
    comment = draw(st.sampled_from([job.comment, elsewhere, "", "mine"]))
    gpus = draw(counts)
    changes = {
        "user": draw(users),
        "account": draw(st.sampled_from(["", "chem", "phys"])),
        "elapsed_s": elapsed,
        "node_count": draw(counts),
        "cpus": draw(counts),
        "comment": comment,
        "tres": {**job.tres, "gres/gpu": float(gpus)},
    }
    return slurm_job(job.id, begin, end, run=run, purpose=purpose, **changes)


@st.composite
def uses(draw: Any) -> QuantumUse:
    tasks = tuple(
        TaskUse(
            started_at=at(begin),
            ended_at=draw(st.sampled_from([None, at(begin + length)])),
            counts=draw(st.booleans()),
            qpu_seconds=float(length),
            charges={draw(st.sampled_from(["billed-s", "credits"])): float(length)},
        )
        for begin, length in draw(
            st.lists(st.tuples(st.integers(0, 200_000), st.integers(0, 900)), max_size=4)
        )
    )
    return QuantumUse(
        job=f"j{draw(st.integers(0, 10**9))}",
        run=draw(names),
        user=draw(st.sampled_from(["", "ada", "bob"])),
        project=draw(st.sampled_from(["", "chem", "maths"])),
        qpu=draw(st.sampled_from(["vlq", "aer"])),
        submitted_at=at(0),
        flow=draw(st.sampled_from(["", "maxcut", "vqe"])),
        coupling=draw(st.sampled_from(["", "split"])),
        slurm_jobs=tuple(draw(st.lists(st.integers(1, 60), max_size=2, unique=True))),
        tasks=tasks,
    )


facts = st.builds(
    RunFacts,
    run=names,
    user=users,
    flow=st.sampled_from(["", "maxcut", "qaoa"]),
    coupling=st.sampled_from(["", "split", "gated"]),
    project=st.sampled_from(["", "chem"]),
)
books = st.builds(
    AccountBooks,
    user=st.just("ada"),
    attempts=st.lists(attempts(), max_size=12),
    quantum=st.lists(uses(), max_size=8, unique_by=lambda use: use.job),
    runs=st.lists(facts, max_size=5),
    registered=st.sampled_from([(), ("ada",), ("ada", "bob")]),
    holds=st.sampled_from([(), HOLDS]),
    state=st.sampled_from(["", OWN]),
    is_shared=st.booleans(),
)


def unique(known: AccountBooks) -> list[AccountedJob]:
    return [*{(j.id, j.submitted_at, j.started_at): j for j in known.attempts or ()}.values()]


def figures(row: Any) -> dict[str, float]:
    named = ("slurm_jobs", "node_s", "core_s", "gpu_s", "qpu_held_s", "quantum_jobs", "qpu_used_s")
    return {name: getattr(row, name) for name in named}


@given(books)
def test_totals_are_the_sums_of_both_books(known: AccountBooks) -> None:
    found = join(known, ALL, NOW)
    ours = [job for job in unique(known) if job.started_at is not None]
    tasks = [t for use in known.quantum or () for t in use.tasks if t.counts and t.ended_at]
    assert figures(found.total) == {
        "slurm_jobs": len(ours),
        "node_s": sum(job.node_seconds for job in ours),
        "core_s": sum(job.core_seconds for job in ours),
        "gpu_s": sum(job.elapsed_s * job.tres["gres/gpu"] for job in ours),
        "qpu_held_s": sum(job.elapsed_s * job.tres.get("gres/qpu", 0.0) for job in ours),
        "quantum_jobs": len(
            [u for u in known.quantum or () if any(t.counts and t.ended_at for t in u.tasks)]
        ),
        "qpu_used_s": sum(task.qpu_seconds for task in tasks),
    }
    charged: Counter[str] = Counter()
    for task in tasks:
        charged.update(task.charges)
    assert found.total.charges == charged


@given(books, st.sampled_from(GROUPS))
def test_groups_add_up_to_the_total(known: AccountBooks, by: Any) -> None:
    found = join(known, ALL, NOW, by)
    for name, total in figures(found.total).items():
        assert isclose(sum(figures(row)[name] for row in found.rows), total, abs_tol=1e-6)
    assert len({row.group for row in found.rows}) == len(found.rows)


@given(books, st.lists(st.integers(0, 300_000), min_size=1, max_size=4, unique=True))
def test_periods_add_up_to_their_whole(known: AccountBooks, cuts: list[int]) -> None:
    edges = [ALL.since, *(at(cut) for cut in sorted(cuts)), ALL.until]
    parts = [join(known, Period(since=begin, until=end), NOW) for begin, end in pairwise(edges)]
    whole = join(known, ALL, NOW)
    for name in ("node_s", "core_s", "gpu_s", "qpu_held_s", "qpu_used_s"):
        total = sum(figures(part.total)[name] for part in parts)
        assert isclose(total, figures(whole.total)[name], rel_tol=1e-9, abs_tol=1e-6)


@given(books, st.randoms())
def test_the_order_of_the_books_does_not_matter(known: AccountBooks, chance: Any) -> None:
    jobs, quantum_jobs = [*(unique(known))], [*(known.quantum or ())]
    ordered = join(AccountBooks(**_values(known) | {"attempts": jobs}), ALL, NOW)
    chance.shuffle(jobs)
    chance.shuffle(quantum_jobs)
    shuffled = AccountBooks(**_values(known) | {"attempts": jobs, "quantum": quantum_jobs})
    assert join(shuffled, ALL, NOW).rows == ordered.rows


def _values(known: AccountBooks) -> dict[str, Any]:
    named = [field.name for field in fields(known)]
    return {name: getattr(known, name) for name in named}


def test_each_attempt_of_a_requeued_job_counts_and_a_repeated_row_does_not() -> None:
    first, second = slurm_job(7, 0, 100), slurm_job(7, 200, 260)
    found = joined(first, second, first)
    assert (found.total.slurm_jobs, found.total.node_s) == (2, 160.0)


def test_a_job_counts_with_its_part_of_the_period_and_a_running_one_up_to_now() -> None:
    period = Period(since=at(50), until=at(150))
    assert joined(slurm_job(7, 0, 100), period=period).total.node_s == 50.0
    running = slurm_job(8, 100, None, elapsed_s=40.0)
    assert joined(running, period=period, now=at(140)).total.node_s == 40.0
    assert joined(slurm_job(9, 150, 160), period=period).total.slurm_jobs == 0


def test_a_qpu_that_two_components_of_a_job_stand_for_is_held_once() -> None:
    tag = str(SlurmTag("scan", "allocation", 1))
    hold = QpuHold(qpu="vlq", tres=("gres/qpu", "license/lab"))
    licence = slurm_job(7, 0, 100, comment=tag, tres={"license/lab": 1.0})
    node = slurm_job(8, 0, 100, comment=tag, tres={"gres/qpu": 1.0})
    again = slurm_job(8, 200, 230, comment=tag, tres={"gres/qpu": 1.0})
    found = joined(licence, node, again, holds=[hold])
    assert (found.total.node_s, found.total.qpu_held_s) == (230.0, 130.0)


def test_a_job_that_starts_where_two_periods_meet_is_in_the_later_one() -> None:
    early = slurm_job(7, 100, None, elapsed_s=1.0)  # our clock is behind Slurm's
    before, after = Period(since=at(0), until=at(100)), Period(since=at(100), until=at(200))
    now = at(99)
    assert joined(early, period=before, now=now).total.node_s == 0.0
    assert joined(early, period=after, now=now).total.node_s == 1.0


@pytest.mark.parametrize("what", ["qpu-vlq", "worker-3", "stage-12", "driver"])
def test_a_name_alone_says_what_a_job_is_for(what: str) -> None:
    job = slurm_job(7, 0, 10, run="a-stage-b", name=slurm_job_name("a-stage-b", what), comment="")
    books = AccountBooks(user="ada", attempts=[job], quantum=[])
    (found,) = attempts_of(books, [RunKey("ada", "a-stage-b")])
    assert (found.key.run, found.purpose) == ("a-stage-b", what.partition("-")[0])


def test_suspended_time_does_not_count() -> None:
    assert joined(slurm_job(7, 0, 100, elapsed_s=60.0)).total.node_s == 60.0


def test_a_job_of_others_is_not_ours() -> None:
    other = slurm_job(7, 0, 100, name="lammps", comment="hpcqc is nice")
    assert joined(other).total.slurm_jobs == 0


def test_an_allocation_that_a_run_works_in_is_the_runs() -> None:
    salloc = slurm_job(7, 0, 100, name="interactive", comment="")
    found = joined(salloc, by="run", allocations={7: RunKey("ada", "scan")})
    assert [(row.group, row.node_s) for row in found.rows] == [("scan", 100.0)]
    assert found.differences == ()


def test_groups_have_what_the_register_and_slurm_know() -> None:
    jobs = [slurm_job(7, 0, 100), slurm_job(8, 0, 50, run="other", user="bob", account="phys")]
    rows = {by: {row.group: row.node_s for row in joined(*jobs, by=by).rows} for by in GROUPS}
    assert rows == {
        "project": {"chem": 100.0, "phys": 50.0},
        "user": {"ada": 100.0, "bob": 50.0},
        "flow": {"f": 100.0, "": 50.0},
        "coupling": {"split": 100.0, "": 50.0},
        "run": {"scan": 100.0, "other": 50.0},
    }


def test_the_payer_is_the_project_of_its_slurm_jobs_too() -> None:
    found = joined(slurm_job(7, 0, 100), quantum("j1", 10, 20, project="maths", qpu="aer"))
    assert [(row.group, row.node_s, row.qpu_used_s) for row in found.rows] == [
        ("maths", 100.0, 10.0)
    ]


def by_project(found: Accounting) -> dict[str, tuple[float | None, float | None]]:
    return {row.group: (row.node_s, row.qpu_used_s) for row in found.rows}


def test_each_slurm_job_is_its_own_accounts_where_a_run_has_several() -> None:
    jobs = [slurm_job(7, 0, 10), slurm_job(8, 0, 1000, account="phys")]
    used = quantum("j1", 2, 5, qpu="aer")
    assert by_project(joined(*jobs)) == {"chem": (10.0, 0.0), "phys": (1000.0, 0.0)}
    # Nothing says which of both accounts the quantum job is for.
    assert by_project(joined(*jobs, used))[""] == (0.0, 3.0)
    without = slurm_job(9, 0, 100, account="")
    assert by_project(joined(jobs[0], without, used)) == {"": (100.0, 0.0), "chem": (10.0, 3.0)}


def test_several_payers_of_a_run_move_no_hours_of_slurm() -> None:
    paid = [quantum("j1", 10, 20, project="maths"), quantum("j2", 30, 35, project="art")]
    assert by_project(joined(slurm_job(7, 0, 100), *paid)) == {
        "art": (0.0, 5.0),
        "chem": (100.0, 0.0),
        "maths": (0.0, 10.0),
    }


@given(
    st.lists(
        st.tuples(st.sampled_from(["scan", "night"]), st.sampled_from(["", "chem", "phys"])),
        max_size=6,
    ),
    st.sampled_from(["", "chem", "maths"]),
)
def test_hours_are_of_the_recorded_project_else_of_their_jobs_account(
    jobs: list[tuple[str, str]], project: str
) -> None:
    expected: Counter[str] = Counter()
    entries = []
    for number, (run, account) in enumerate(jobs):
        entries.append(slurm_job(number + 1, 0, 10 + number, run=run, account=account))
        expected[project if run == "scan" and project else account] += 10 + number
    facts = [RunFacts(run="scan", user="ada", project=project), RunFacts(run="night", user="ada")]
    rows = join(
        AccountBooks(user="ada", attempts=entries, quantum=[], runs=facts), ALL, NOW, "project"
    ).rows
    assert {row.group: row.node_s for row in rows} == expected


def test_without_comments_jobs_are_joined_by_name_and_nothing_is_suspected() -> None:
    found = joined(slurm_job(7, 0, 100, comment=""), slurm_job(8, 0, 10, comment=""), by="run")
    assert [(row.group, row.node_s) for row in found.rows] == [("scan", 110.0)]
    assert found.differences == ()
    assert "AccountingStoreFlags" in found.notes[0]


@pytest.mark.parametrize("version", ["22.05", "24.11", "26.05"])
def test_a_running_job_whose_comment_comes_at_its_end_is_not_suspected(version: str) -> None:
    """As sacct printed them: of jobs with one comment, those that had ended have it."""
    folder = Path(__file__).parents[1] / "slurm" / "recorded" / "same-jobs" / version
    text = (folder / "sacct.txt").read_bytes().decode()
    accounted = parse_accounting(text, separator="\x1fSEP")
    ours = [
        replace(job, user="ada", name=slurm_job_name("r:1", "worker-0"))
        for job in accounted
        if job.state in (SlurmState.COMPLETED, SlurmState.RUNNING)
    ]
    assert {bool(job.comment) for job in ours} == {True, False}
    found = joined(*ours, runs=("r:1",))
    assert str(KINDS.COMMENT_ALTERED) not in kinds(found)
    assert found.notes == ()
    running = [job for job in ours if job.state is SlurmState.RUNNING]
    assert joined(*running, runs=("r:1",)).notes == ()
    altered = [replace(job, ended_at=NOW) for job in running]
    assert kinds(joined(*ours, *altered, runs=("r:1",))).count("comment-altered") == len(altered)


def test_a_name_that_two_runs_have_belongs_to_none() -> None:
    job = slurm_job(7, 0, 100, run="a:b", comment="")
    found = joined(job, runs=("a:b", "a b"), by="run")
    assert [row.group for row in found.rows] == [""]
    assert kinds(found) == ["no-run"]


def test_the_longest_name_that_fits_wins() -> None:
    job = slurm_job(7, 0, 100, run="scan-2", comment="")
    assert joined(job, runs=("scan", "scan-2"), by="run").rows[0].group == "scan-2"


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ([slurm_job(7, 0, 100, purpose="qpu"), quantum("j1", 10, 20)], []),
        ([slurm_job(7, 0, 100, purpose="qpu")], [KINDS.QPU_WITHOUT_JOBS]),
        ([slurm_job(7, 0, None, purpose="qpu")], []),  # it may still use it
        (
            [
                slurm_job(7, 0, 100, purpose="qpu"),
                quantum("j1", 10, 20, run="other", slurm_jobs=(7,)),
            ],
            [KINDS.USED_UNHELD, KINDS.QPU_WITHOUT_JOBS],
        ),
        (
            [slurm_job(7, 0, 100, purpose="qpu"), quantum("j1", 90, 120, slurm_jobs=(7,))],
            [KINDS.USED_UNHELD],
        ),
        ([quantum("j1", 0, 10)], []),  # Slurm did not grant the QPU to this run
        ([slurm_job(7, 0, 100, purpose="qpu"), quantum("j1", 90, 101)], []),
        ([quantum("j1", 0, 10, qpu="aer")], []),  # Slurm does not know this QPU
        ([quantum("j1", 0, 10, qpu="aer", slurm_jobs=(99,))], [KINDS.UNKNOWN_SLURM_JOB]),
        ([slurm_job(7, 0, 20), quantum("j1", 0, 10, qpu="aer", slurm_jobs=(7,))], []),
        (
            [slurm_job(7, 0, 20), quantum("j1", 0, 10, qpu="aer", slurm_jobs=(7, 98, 99))],
            [KINDS.UNKNOWN_SLURM_JOB] * 2,
        ),
        ([slurm_job(7, 0, 20, run="lost")], [KINDS.NO_RUN]),
        ([slurm_job(7, 0, 20, run="lost", user="bob")], []),  # bob's register is bob's
        ([slurm_job(7, 0, 20), slurm_job(8, 0, 9, comment="mine")], [KINDS.COMMENT_ALTERED]),
        ([slurm_job(7, 0, 20), slurm_job(8, 0, 9, comment="")], [KINDS.COMMENT_ALTERED]),
        ([slurm_job(7, 0, 20, name="lammps")], [KINDS.COMMENT_ALTERED]),
    ],
)
def test_differences(jobs: list[Any], expected: list[str]) -> None:
    assert kinds(joined(*jobs, runs=("scan", "other"))) == expected


LIKE_VLQ = QpuHold(qpu="aer", tres=("gres/qpu",), partition="quantum")


@pytest.mark.parametrize("holds", [(), HOLDS, (LIKE_VLQ,), (*HOLDS, LIKE_VLQ)])
@pytest.mark.parametrize("qpu", ["aer", "vlq", "other"])
@pytest.mark.parametrize("purpose", ["qpu", "allocation"])
def test_a_run_says_which_qpu_its_slurm_job_held_whatever_the_site_file_has(
    holds: tuple[QpuHold, ...], qpu: str, purpose: str
) -> None:
    what = f"qpu-{qpu}" if purpose == "qpu" else "allocation-1"
    changes = {"name": slurm_job_name("scan", what), "purpose": purpose}
    held = slurm_job(7, 0, 100, **changes, partition="quantum", tres={"gres/qpu": 1.0})
    used = quantum("j1", 10, 20, qpu=qpu, slurm_jobs=(7,))
    assert kinds(joined(held, used, holds=holds)) == []
    known = AccountBooks(user="ada", attempts=[held], quantum=[used], holds=holds)
    assert [one.held for one in attempts_of(known, [])] == [{qpu: 1.0}]
    late = quantum("j1", 90, 120, qpu=qpu, slurm_jobs=(7,))
    assert kinds(joined(held, late, holds=holds)) == ["used-unheld"]
    local = quantum("j1", 10, 20, qpu=qpu, run="laptop")
    found = joined(held, used, local, holds=holds, runs=("scan", "laptop"))
    assert kinds(found) == []
    assert found.total.qpu_used_s == 20.0


@pytest.mark.parametrize("qpu", ["aer", "q" * 60, "a b"])
def test_a_qpu_job_without_quantum_jobs_is_named_by_its_own_name(qpu: str) -> None:
    job = slurm_job(7, 0, 100, purpose="qpu", name=slurm_job_name("scan", f"qpu-{qpu}"))
    (found,) = joined(job, quantum("j1", 200, 210, qpu=qpu)).differences
    assert (str(found.kind), found.slurm_job) == ("qpu-without-jobs", 7)
    assert f"held {qpu} for" in found.text
    lost = replace(job, comment="")
    texts = [one.text for one in joined(lost, runs=()).differences]
    assert any(f"held {slurm_job_name('', f'qpu-{qpu}')[11:]} for" in text for text in texts)


@pytest.mark.parametrize(
    ("used_s", "counts", "unheld_s"),
    [
        (0.0, False, 0.0),  # stopped by a later broker, which cannot say when it was gone
        (0.5, True, 0.0),  # completed, perhaps while the QPU was held
        (12.0, True, 0.0),
        (13.0, True, 1.0),
        (13.0, False, 1.0),
        (60.0, True, 48.0),
        (1e6, True, 48.0),  # seconds of a simulated clock
        (0.0, True, 48.0),  # a QPU that tells no seconds
    ],
)
def test_no_more_is_unheld_than_a_task_used_whenever_its_end_was_noticed(
    used_s: float, counts: bool, unheld_s: float
) -> None:
    task = TaskUse(started_at=at(90), ended_at=at(150), qpu_seconds=used_s, counts=counts)
    used = quantum("j1", 0, 0, tasks=(task,), slurm_jobs=(7,))
    found = joined(slurm_job(7, 0, 100, purpose="qpu"), used).differences
    assert [one.seconds for one in found] == ([unheld_s] if unheld_s else [])


def test_tasks_on_two_qpus_are_compared_with_the_slurm_jobs_of_each() -> None:
    first, second = (
        TaskUse(
            started_at=at(begin),
            ended_at=at(begin + 10),
            qpu=qpu,
            slurm_job=number,
            qpu_seconds=10.0,
        )
        for begin, qpu, number in ((10, "aer", 7), (200, "vlq", 8))
    )
    moved = quantum("j1", 0, 0, tasks=(first, second), slurm_jobs=(7, 8))
    named = {"aer": slurm_job_name("scan", "qpu-aer"), "vlq": slurm_job_name("scan", "qpu-vlq")}
    jobs = [
        slurm_job(7, 0, 100, purpose="qpu", name=named["aer"]),
        slurm_job(8, 190, 300, purpose="qpu", name=named["vlq"]),
    ]
    assert kinds(joined(*jobs, moved)) == []
    assert kinds(joined(jobs[0], moved, queued=[8])) == ["not-yet-accounted", "used-unheld"]


def test_differences_say_whose_and_how_much() -> None:
    (found,) = joined(slurm_job(7, 0, 100, purpose="qpu")).differences
    assert (found.run, found.user, found.slurm_job, found.seconds) == ("scan", "ada", 7, 100.0)
    late = quantum("j1", 5, 40, slurm_jobs=(7,))
    (used,) = joined(slurm_job(7, 0, 10, purpose="qpu"), late).differences
    assert (used.job, used.seconds) == ("j1", 28.0)  # but for the tolerance of two seconds


def test_a_started_job_that_is_not_accounted_yet_is_a_difference() -> None:
    found = joined(quantum("j1", 0, 10, qpu="aer", slurm_jobs=(7,)), queued=[7])
    assert kinds(found) == ["not-yet-accounted"]


def test_a_job_that_runs_in_the_accounting_alone_is_a_difference() -> None:
    running = slurm_job(7, 0, None)
    assert kinds(joined(running, listed=[8])) == ["never-ended"]
    for listed in (None, [7, 8]):
        assert kinds(joined(running, listed=listed)) == []
    assert kinds(joined(slurm_job(7, 0, 10), listed=[])) == []
    assert kinds(joined(slurm_job(7, 0, None, user="bob"), listed=[])) == []
    assert kinds(joined(slurm_job(7, None, None), listed=[])) == []


def test_a_book_that_is_away_has_no_figures_and_accuses_nobody() -> None:
    without_slurm = joined(quantum("j1", 0, 10), attempts=None)
    assert figures(without_slurm.total) == {
        "slurm_jobs": None,
        "node_s": None,
        "core_s": None,
        "gpu_s": None,
        "qpu_held_s": None,
        "quantum_jobs": 1,
        "qpu_used_s": 10.0,
    }
    without_ledger = joined(slurm_job(7, 0, 100, purpose="qpu"), quantum=None)
    assert (without_ledger.total.qpu_used_s, without_ledger.total.qpu_held_s) == (None, 100.0)
    assert without_slurm.differences == without_ledger.differences == ()


def test_users_with_other_names_at_the_broker_are_joined_where_that_is_certain() -> None:
    one = joined_user([RunKey("ada01", "scan")], [RunKey("ada", "scan")])
    assert one(RunKey("ada", "scan")) == RunKey("ada01", "scan")
    two = joined_user([RunKey("ada01", "scan"), RunKey("bob", "scan")], [RunKey("ada", "scan")])
    assert two(RunKey("ada", "scan")) == RunKey("ada", "scan")
    same = joined_user([RunKey("ada", "scan"), RunKey("bob", "scan")], [RunKey("bob", "scan")])
    assert same(RunKey("bob", "scan")) == RunKey("bob", "scan")


def test_equal_ids_of_several_users_are_several_runs() -> None:
    jobs = [slurm_job(7, 0, 100), slurm_job(8, 0, 50, user="bob")]
    assert joined(*jobs, by="run").total.runs == 2


def of_folder(number: int, state: str, **changes: Any) -> AccountedJob:
    """Return the attempt of a QPU job of the run `scan` of a state folder, 100 s long."""
    comment = str(SlurmTag("scan", "qpu", 0, state))
    return slurm_job(number, 0, 100, purpose="qpu", comment=comment, **changes)


def test_runs_of_two_state_folders_with_one_id_are_two_runs() -> None:
    jobs = [of_folder(7, OWN), of_folder(8, OTHER), quantum("j1", 10, 20)]
    found = joined(*jobs, by="run", state=OWN)
    assert {row.group: (row.node_s, row.qpu_used_s) for row in found.rows} == {
        "scan": (100.0, 10.0),
        f"scan (state folder {OTHER})": (100.0, 0.0),
    }
    assert found.total.runs == 2
    # The other folder's ledger is not read, so nothing is said of its QPU.
    assert [(one.kind, one.slurm_job) for one in found.differences] == [(KINDS.NO_RUN, 8)]
    flows = {row.group: row.node_s for row in joined(*jobs, by="flow", state=OWN).rows}
    assert flows == {"f": 100.0, "": 100.0}


def test_the_slurm_job_that_held_the_qpu_names_the_state_folder_of_a_services_jobs() -> None:
    jobs = [of_folder(7, OWN), of_folder(8, OTHER)]
    used = [
        quantum("j1", 10, 20, slurm_jobs=(7,)),
        quantum("j2", 30, 35, slurm_jobs=(8,)),
        quantum("j3", 40, 42, qpu="aer"),  # nothing says whose: this folder knows such a run
    ]
    found = joined(*jobs, *used, by="run", state=OWN, is_shared=True)
    assert {row.group: row.qpu_used_s for row in found.rows} == {
        "scan": 12.0,
        f"scan (state folder {OTHER})": 5.0,
    }
    assert kinds(found) == []
    elsewhere = joined(jobs[1], used[2], runs=(), by="run", state=OWN, is_shared=True)
    assert [(row.group, row.qpu_used_s, row.runs) for row in elsewhere.rows] == [("scan", 2.0, 1)]


def test_flow_and_coupling_of_others_are_as_their_quantum_jobs_have_them() -> None:
    told = {"user": "bob", "run": "night", "flow": "vqe", "coupling": "gated"}
    jobs = [
        slurm_job(7, 0, 100, run="night", user="bob"),
        quantum("j1", 10, 20, **told, qpu="aer"),
        quantum("j2", 30, 35, user="bob", run="night", qpu="aer"),
        quantum("j3", 30, 31, **told | {"user": "ada", "run": "scan", "flow": "old"}, qpu="aer"),
    ]
    for by, group, own in (("flow", "vqe", "f"), ("coupling", "gated", "split")):
        rows = {row.group: (row.node_s, row.qpu_used_s) for row in joined(*jobs, by=by).rows}
        # What the register of this state folder says of a run comes first.
        assert rows == {group: (100.0, 15.0), own: (0.0, 1.0)}


def test_a_run_with_several_flows_has_none_of_them() -> None:
    used = [quantum(f"j{n}", 0, n, run="night", flow=f"f{n}", qpu="aer") for n in (1, 2)]
    assert [row.group for row in joined(*used, by="flow").rows] == [""]


@pytest.mark.parametrize(
    ("tres", "partition", "holds", "held"),
    [
        ({"gres/qpu": 2.0}, "quantum", HOLDS, {"vlq": 2.0}),
        ({"gres/qpu:ibm": 1.0}, "quantum", HOLDS, {"vlq": 1.0}),
        ({"gres/qpu": 1.0}, "elsewhere", HOLDS, {"": 1.0}),
        ({}, "quantum", HOLDS, {"vlq": 1.0}),  # a qpu job where QPUs are not accounted
        ({"license/lab@db": 1.0}, "classical", [QpuHold(qpu="q", tres=("license/lab",))], {"q": 1}),
        (
            {"gres/qpu": 1.0, "license/lab": 1.0},
            "quantum",
            [QpuHold(qpu="q", tres=("gres/qpu", "license/lab"))],
            {"q": 1.0},
        ),
        (
            {"gres/qpu": 1.0},
            "quantum",
            [QpuHold(qpu="a", tres=("gres/qpu",)), QpuHold(qpu="b", tres=("gres/qpu",))],
            {"": 1.0},
        ),
        ({}, "quantum", [QpuHold(qpu="q", partition="quantum,other")], {"q": 1.0}),
    ],
)
def test_qpus_held(tres: Any, partition: str, holds: Any, held: dict[str, float]) -> None:
    job = slurm_job(7, 0, 10, purpose="qpu", tres=tres, partition=partition)
    assert held_by(job, "qpu", holds) == held
