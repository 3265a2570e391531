"""When nodes become free and a new job starts: what people would count on their fingers."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.slurm.inventory import Partition
from orchestrator.slurm.outlook import ENTRY_FIELDS, Outlook, QueueEntry, outlook, parse_entries
from orchestrator.slurm.states import SlurmState

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
SEPARATOR, END = "\x1fSEP", "\x1eEND"


def partition(nodes: int, idle: int = 0) -> Partition:
    names = tuple(f"c{n}" for n in range(nodes))
    return Partition(name="batch", nodes=names, node_count=nodes, idle_nodes=idle, cores_per_node=4)


def running(nodes: str, ends_s: float | None, cpus: int = 4, **more: object) -> QueueEntry:
    names = tuple(f"c{n}" for n in nodes)
    return QueueEntry(
        state=SlurmState.RUNNING,
        partitions=("batch",),
        nodes=names,
        node_count=len(names),
        cpus=cpus * len(names),
        ends_at=None if ends_s is None else NOW + timedelta(seconds=ends_s),
        **more,  # type: ignore[arg-type]
    )


def waiting(nodes: int, seconds: float, starts_s: float | None = None, **more) -> QueueEntry:
    known = {"priority": 7, "reason": "Priority", "partitions": ("batch",), "cpus": 4 * nodes}
    return QueueEntry(
        state=SlurmState.PENDING,
        node_count=nodes,
        walltime=timedelta(seconds=seconds),
        starts_at=None if starts_s is None else NOW + timedelta(seconds=starts_s),
        **{**known, **more},  # type: ignore[arg-type]
    )


def look(nodes: int, jobs: list[QueueEntry], *, idle: int = 0, cores: int | None = 4, hours=1.0):
    return outlook(
        partition(nodes, idle),
        jobs,
        now=NOW,
        cores=cores,
        walltime=timedelta(hours=hours),
        unknown_s=600.0,
    )


def test_nodes_are_busy_until_the_walltimes_of_their_jobs_are_over() -> None:
    found = look(4, [running("01", 300), running("2", 90)], idle=1)
    assert found.busy == ((90.0, 1), (300.0, 2))
    assert (found.unknown, found.ahead, found.starts_in_s) == (0, 0, 0.0)


def test_a_node_with_room_is_not_busy() -> None:
    shared = [running("0", 300, 2), running("0", 900, 1)]
    assert look(1, shared, cores=1).busy == ()
    assert look(1, shared, cores=2).busy == ((300.0, 1),)
    assert look(1, shared, cores=None).busy == ((900.0, 1),)
    alone = [running("0", 300, 1, exclusive=True)]
    assert look(1, alone, cores=1).busy == ((300.0, 1),)


def test_a_job_that_should_have_ended_ends_soon() -> None:
    assert look(1, [running("0", -50)]).busy == ((1.0, 1),)


def test_hidden_jobs_and_those_without_a_walltime_hold_nodes_for_an_unknown_time() -> None:
    found = look(4, [running("0", None), running("1", 30)])
    assert (found.busy, found.unknown) == (((30.0, 1),), 3)
    assert look(2, []).starts_in_s == 600.0


def test_waiting_jobs_go_first() -> None:
    found = look(1, [running("0", 100), waiting(1, 50), waiting(1, 70)])
    assert (found.ahead, found.starts_in_s) == (2, 100 + 50 + 70)


def test_a_short_job_fills_the_gap_before_a_wide_one() -> None:
    jobs = [running("0", 7200), waiting(2, 3600)]
    assert look(2, jobs, idle=1, hours=1).starts_in_s == 0.0
    assert look(2, jobs, idle=1, hours=3).starts_in_s == 7200 + 3600


def test_slurms_own_expectation_counts_for_a_waiting_job() -> None:
    jobs = [running("0", 100), waiting(1, 50, starts_s=40.0)]
    assert look(1, jobs).starts_in_s == 100.0
    assert look(1, [running("0", 100), waiting(1, 50, starts_s=400.0)], hours=0.05).starts_in_s == (
        100.0  # three minutes fit before it
    )


def test_jobs_that_wait_for_something_else_are_not_ahead() -> None:
    others = [
        waiting(1, 50, priority=0, reason="JobHeldUser"),
        waiting(1, 50, reason="Dependency"),
        waiting(1, 50, reason="BeginTime"),
        waiting(1, 50, partitions=("gpu",)),
    ]
    assert look(1, others, idle=1).ahead == 0
    assert look(1, [waiting(1, 50, partitions=("gpu", "batch"))], idle=1).ahead == 1


def test_a_job_that_shares_its_node_takes_a_part_of_one() -> None:
    small = [waiting(1, 500, cpus=1)] * 3
    assert look(1, small, idle=1, cores=1).starts_in_s == 0.0
    assert look(1, small, idle=1, cores=2).starts_in_s == 500.0
    whole = [waiting(1, 500, cpus=1, exclusive=True)]
    assert look(1, whole, idle=1, cores=1).starts_in_s == 500.0


def test_without_an_end_a_new_job_never_starts_for_sure() -> None:
    endless = QueueEntry(
        state=SlurmState.PENDING, partitions=("batch",), cpus=4, priority=1, reason="Resources"
    )
    assert look(1, [endless], idle=1).starts_in_s == math.inf


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), max_size=6),
    st.integers(1, 9),
)
def test_a_place_in_the_queue_is_the_first_with_room_for_all_its_time(
    nodes: int, ahead: list[tuple[int, int]], hours: int
) -> None:
    """Against a count of each hour."""
    taken = [0] * 200
    for wide, long in [*ahead, (1, hours)]:
        fits = min(wide, nodes)
        begin = next(t for t in range(200) if all(n + fits <= nodes for n in taken[t : t + long]))
        for t in range(begin, begin + long):
            taken[t] += fits
    jobs = [waiting(wide, 3600 * long) for wide, long in ahead]
    assert look(nodes, jobs, idle=nodes, hours=hours).starts_in_s == 3600 * begin


def line(**known: str) -> str:
    usual = dict(zip(ENTRY_FIELDS, ("1", "RUNNING", "batch", "1", "4"), strict=False))
    fields = [{**usual, **known}.get(name, "") for name in ENTRY_FIELDS]
    return SEPARATOR.join(fields) + END + "\n"


def test_an_unknown_state_or_a_strange_list_of_nodes_hides_no_other_job() -> None:
    text = line(State="DREAMING") + line(NodeList="c[x]") + line(NodeList="c[1-2]", EndTime="99")
    found = parse_entries(text, separator=SEPARATOR, end=END)
    assert [job.nodes for job in found] == [(), (), ("c1", "c2")]
    assert found[2].ends_at == datetime.fromtimestamp(99, UTC)


def test_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="squeue"):
        parse_entries("1 RUNNING" + END, separator=SEPARATOR, end=END)


def test_what_a_real_slurm_printed_is_read() -> None:
    """Of 22.05: exclusive and shared nodes, an array, held, dependent and planned jobs."""
    text = (Path(__file__).parent / "recorded" / "22.05" / "nodes-in-use.txt").read_text()
    jobs = parse_entries(text, separator=SEPARATOR, end=END)
    classical = Partition(
        name="classical",
        nodes=("c1", "c2", "c3", "c4"),
        node_count=4,
        cores_per_node=4,
    )
    now = datetime.fromtimestamp(1795955384, UTC)

    def found(cores: int, walltime: timedelta) -> Outlook:
        return outlook(classical, jobs, now=now, cores=cores, walltime=walltime, unknown_s=600.0)

    assert len(jobs) == 15
    whole = found(4, timedelta(minutes=10))
    assert whole.busy == ((111.0, 1), (291.0, 1), (86391.0, 2))
    assert (whole.unknown, whole.ahead, whole.starts_in_s) == (0, 2, 111.0)
    # c2 and c3 are full; jobs on both end in ten minutes.
    assert found(1, timedelta(minutes=10)).busy == ((111.0, 1), (291.0, 1), (591.0, 2))
    # Two jobs are planned to begin in a day: there is no room for a longer one before them.
    assert found(4, timedelta(days=2)).starts_in_s == 86391.0 + 1200.0


def test_busy_nodes_come_in_order() -> None:
    found = look(5, [running(str(n), 10.0 * (5 - n)) for n in range(5)])
    assert all(a < b for (a, _), (b, _) in pairwise(found.busy))
