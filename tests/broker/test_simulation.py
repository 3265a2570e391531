"""The simulator: hand-made schedules, workload files good and bad, and equal runs twice."""

from __future__ import annotations

import gzip
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from backends.metering import Metering
from backends.profiles import load_profile
from backends.shapes import ItemShape
from backends.timing import TimingModel
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.job_request import LeaseWish
from orchestrator.broker.core.packing import TaskLimits
from orchestrator.broker.core.policies import POLICIES, Fifo, Shortest, make_policy
from orchestrator.broker.core.rules import Calendar, QpuRules, Window
from orchestrator.broker.ledger import Ledger
from orchestrator.broker.ledger.tables import Entries
from orchestrator.identity import JobId
from orchestrator.simulation.engine import jain, summarize
from orchestrator.simulation.sources import (
    Mix,
    QuantumRule,
    made_up,
    parse_swf,
    read_recorded,
    read_swf,
)
from orchestrator.simulation.study import Study, alone, stretches
from orchestrator.simulation.workload import (
    Arrival,
    Workload,
    WorkloadError,
    first_jobs,
    on_qpu,
    with_load,
)
from tests.errors import naming

NOW = datetime(2026, 1, 1, tzinfo=UTC)
# A task takes one second and one more for every thousand shots.
RULES = QpuRules(timing=TimingModel(init_s=1.0, shot_s=1e-3), metering=Metering(), slice_s=None)


def job(name: str, shots: int, user: str = "u", **more: object) -> ev.JobSubmitted:
    return ev.JobSubmitted(
        job=JobId(name), run=name, stage=None, call=0, qpu="q", backend="aer", digest=name,
        payload_kind="sampler", pubs=(ItemShape(points=1, shots=shots),), num_qubits=2,
        seed=None, project="p", user=user, **more,
    )  # fmt: skip


def workload(*jobs: tuple[float, ev.JobSubmitted]) -> Workload:
    return Workload.of("w", [Arrival(at=NOW + timedelta(seconds=s), job=j) for s, j in jobs])


THREE = workload((0, job("a", 99_000)), (1, job("b", 49_000, "v")), (2, job("c", 9_000, "w")))


def test_three_jobs_by_hand() -> None:
    seen = Study(workload=THREE, rules=RULES).under(Fifo()).metrics
    assert (seen.jobs, seen.tasks, seen.refused, seen.leases) == (3, 3, 0, 0)
    assert seen.wait_s.mean == pytest.approx((0 + 99 + 148) / 3)
    assert (seen.wait_s.median, seen.wait_s.most, seen.wait_s.p95) == (99.0, 148.0, 148.0)
    slow = [1.0, 149 / 50, 158 / 10]
    assert seen.slowdown.mean == pytest.approx(sum(slow) / 3)
    assert seen.short_slowdown is not None
    assert seen.short_slowdown.mean == pytest.approx(15.8)
    assert seen.makespan_s == 160.0
    assert seen.utilisation == pytest.approx(1.0)
    assert seen.shooting == pytest.approx(157 / 160)
    assert seen.fairness == pytest.approx(jain([1 / s for s in slow]))
    assert seen.charges == {"qpu-s": pytest.approx(160.0)}
    shortest = Study(workload=THREE, rules=RULES).under(Shortest())
    assert shortest.seen.starts == ["a", "c", "b"]
    assert shortest.metrics.wait_s.mean == pytest.approx((0 + 98 + 109) / 3)


def test_slices_repeat_the_start_and_count_as_such() -> None:
    rules = replace(RULES, slice_s=20.0)
    seen = Study(workload=THREE, rules=rules).under(Shortest())
    assert seen.seen.starts[:2] == ["a", "c"]  # the long job made way after its first slice
    assert seen.metrics.tasks == 5 + 3 + 1
    assert seen.metrics.utilisation == pytest.approx(1.0)
    assert seen.metrics.shooting == pytest.approx(157 / 166)


def test_closures_are_no_time_that_could_be_used() -> None:
    closed = Window(start=NOW + timedelta(seconds=100), end=NOW + timedelta(seconds=1100))
    rules = replace(RULES, calendar=Calendar.of([closed]))
    seen = Study(workload=THREE, rules=rules).under(Fifo())
    assert seen.seen.jobs[JobId("b")].started_at == closed.end
    assert seen.metrics.makespan_s == 1160.0
    assert seen.metrics.utilisation == pytest.approx(1.0)


def test_leases_are_opened_and_run_out() -> None:
    wish = LeaseWish(id="loop", longest_s=60.0, idle_s=5.0)
    loop = [(t, job(f"l{t}", 0, lease=wish)) for t in (0, 2)]
    jobs = workload(*loop, (0.5, job("other", 9000)))
    seen = Study(workload=jobs, rules=RULES).under(Fifo())
    assert seen.metrics.leases == 1
    assert seen.seen.starts == ["l0", "l2", "other"]
    began = seen.seen.jobs[JobId("other")].started_at
    assert began == NOW + timedelta(seconds=5)  # the site grants two idle seconds, not five


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_equal_runs_are_equal_and_every_job_ends(policy: str) -> None:
    target = load_profile("vlq").target()
    rules = QpuRules(
        limits=TaskLimits.of(target), timing=target.timing, metering=target.metering, slice_s=10.0
    )
    jobs = on_qpu(made_up(Mix(seed=5, jobs=60)), "q", "aer")
    jobs = with_load(jobs, 1.5, alone(rules))
    first, second = (
        Study(workload=jobs, rules=rules, noise=stretches(3, 0.2)).under(make_policy(policy))
        for _ in range(2)
    )
    assert first.metrics == second.metrics
    assert first.seen.starts == second.seen.starts
    assert first.metrics.jobs == 60
    plain = Study(workload=jobs, rules=rules).under(make_policy(policy))
    assert plain.metrics.wait_s != first.metrics.wait_s


def test_coalesced_jobs_share_one_floor() -> None:
    target = load_profile("vlq").target()
    rules = QpuRules(limits=TaskLimits.of(target), timing=target.timing, metering=target.metering)
    jobs = workload(*((0, job(f"j{n:03}", 50)) for n in range(201)))
    seen = Study(workload=jobs, rules=rules).under(Fifo()).metrics
    assert (seen.jobs, seen.tasks) == (201, 3)
    assert seen.charges["billed-s"] == pytest.approx(0.9 + 2 * 100 * 50 * 400e-6)


def test_a_load_is_what_the_jobs_ask_for() -> None:
    paced = with_load(THREE, 0.5, alone(RULES))
    assert paced.span_s == pytest.approx(160 / 0.5)
    assert [a.job for a in paced.arrivals] == [a.job for a in THREE.arrivals]
    with pytest.raises(WorkloadError, match=naming("w", "--load")):
        with_load(first_jobs(THREE, 1), 0.5, alone(RULES))


def test_a_qpu_without_a_model_is_refused() -> None:
    with pytest.raises(WorkloadError, match="--profile"):
        Study(workload=THREE, rules=QpuRules())


def test_statistics() -> None:
    assert summarize([]).most == 0.0
    assert (summarize([4, 1, 3, 2]).median, summarize([1, 2, 3]).median) == (2.5, 2)
    assert summarize(range(1, 101)).p95 == 95
    assert jain([2, 2]) == 1.0
    assert jain([]) == 1.0


LINE = "{n} {at} -1 {run} {procs} -1 -1 {asked} -1 -1 {status} 7 2 -1 -1 -1 -1 -1"


def line(
    n: int, at: float = 0, run: float = 30, procs: int = 4, asked: int = -1, status: int = -1
) -> str:
    return LINE.format(n=n, at=at, run=run, procs=procs, asked=asked, status=status)


def test_a_workload_file_is_read_by_its_rule() -> None:
    rule = QuantumRule(circuits_per_processor=2, shots_per_second=10, least_shots=50, qubits=3)
    text = ["; UnixStartTime: 749458803", "", line(2, 60), line(1, 5, 1, -1, 8)]
    read = parse_swf(text, "f.swf", rule)
    early, late = read.arrivals
    assert early.at == datetime.fromtimestamp(749458803 + 5, UTC)
    assert early.job.pubs == (ItemShape(points=16, shots=50, num_qubits=3),)
    assert late.job.pubs == (ItemShape(points=8, shots=300, num_qubits=3),)
    assert (late.job.user, late.job.project) == ("user7", "group2")


def test_what_is_wrong_in_a_workload_file_is_counted() -> None:
    text = [line(n) for n in range(1, 9)]
    text += ["1 2 3", line(3), line(20, run=-1), line(21, procs=0), line(22, at=-5), "x" * 40]
    read = parse_swf(text, "f.swf", QuantumRule())
    assert len(read.arrivals) == 8
    told = "; ".join(read.notes)
    assert "4 malformed lines left out, such as line 9: 3 fields, not 18" in told
    assert "line 10: job 3 is there already" in told
    assert "1 job without a run time" in told
    assert "1 job without processors" in told


def test_lines_of_partial_executions_are_parts_of_one_job() -> None:
    text = [
        line(1, 10, run=60, status=1),  # the whole job, then its parts
        line(1, 10, run=20, status=2),
        line(1, -1, run=40, status=3),
        line(2, 20, run=5, procs=2, status=2),  # parts alone
        line(2, -1, run=7, procs=8, status=2),
        line(2, -1, run=-1, status=4),
        line(3, -1, run=9, status=2),  # the whole after its parts
        line(3, 30, run=11, status=0),
        line(4, -1, run=5, status=3),  # nobody says when it came
        line(5, 50, run=50, status=5),
    ]
    read = parse_swf(text, "f.swf", QuantumRule(least_shots=1))
    found = {a.job.run: ((a.at - read.start).total_seconds(), a.job.pubs[0]) for a in read.arrivals}
    assert found == {
        "1": (0, ItemShape(points=4, shots=60, num_qubits=5)),
        "2": (10, ItemShape(points=8, shots=12, num_qubits=5)),
        "3": (20, ItemShape(points=4, shots=11, num_qubits=5)),
        "5": (40, ItemShape(points=4, shots=50, num_qubits=5)),
    }
    told = "; ".join(read.notes)
    assert "7 partial executions taken as parts of 4 jobs" in told
    assert "1 job without a submit time left out" in told
    assert "malformed" not in told


def test_a_file_of_another_kind_is_refused(tmp_path) -> None:
    with pytest.raises(WorkloadError, match=naming("table.csv", 2)):
        parse_swf(["a,b", "1,2"], "table.csv", QuantumRule())
    with pytest.raises(WorkloadError, match=naming("empty.swf")):
        parse_swf(["; only a comment"], "empty.swf", QuantumRule())
    path = tmp_path / "cut.swf.gz"
    path.write_bytes(gzip.compress(line(1).encode() * 100)[:-10])
    with pytest.raises(WorkloadError, match=naming("gzip", path)):
        read_swf(path, QuantumRule())
    with pytest.raises(WorkloadError, match=naming(tmp_path / "none.swf")):
        read_swf(tmp_path / "none.swf", QuantumRule())


def test_a_ledger_is_replayed_as_it_was_recorded(tmp_path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger.open(path)
    one, two = job("one", 1000, predicted_s=5.0), replace(job("two", 500), qpu="other")
    ledger.append("run1", Entries(events=[(one, NOW + timedelta(seconds=3))]))
    ledger.append("service", Entries(events=[(two, NOW)]))
    ledger.close()
    assert [a.job.job for a in read_recorded(path).arrivals] == ["two", "one"]
    (only,) = read_recorded(path, qpu="q").arrivals
    assert only == Arrival(at=NOW + timedelta(seconds=3), job=replace(one, predicted_s=None))
    assert "other (1)" in "; ".join(read_recorded(path, qpu="q").notes)
    assert [a.job.job for a in read_recorded(path, scope="service").arrivals] == ["two"]
    with pytest.raises(WorkloadError, match=naming("x", "run1", "service")):
        read_recorded(path, scope="x")
    with pytest.raises(WorkloadError, match=naming(tmp_path / "none.sqlite")):
        read_recorded(tmp_path / "none.sqlite")
    seen = Study(workload=on_qpu(read_recorded(path), "q", "aer"), rules=RULES).under(Fifo())
    assert seen.seen.starts == ["two", "one"]
