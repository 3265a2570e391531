"""What Slurm printed is read as it was meant, whatever names people gave their jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.identity import SlurmTag
from orchestrator.slurm.allocation import AllocationSteps
from orchestrator.slurm.client import Slurm
from orchestrator.slurm.environment import ThisJob
from orchestrator.slurm.inventory import (
    gres_of,
    parse_licences,
    parse_partitions,
    parse_reservations,
)
from orchestrator.slurm.node_lists import counts_of, nodes_of
from orchestrator.slurm.states import (
    ACCOUNTING_FIELDS,
    QUEUE_FIELDS,
    JobDetails,
    SlurmState,
    parse_accounting,
    parse_details,
    parse_queue,
    state_of,
    tres_of,
)

RECORDED = Path(__file__).parent / "recorded" / "22.05"
SEPARATOR, END = "\x1fSEP", "\x1eEND"


def recorded(name: str) -> str:
    return (RECORDED / name).read_bytes().decode()


@pytest.fixture(scope="module")
def queue():
    return {
        job.id: job for job in parse_queue(recorded("squeue.txt"), separator=SEPARATOR, end=END)
    }


@pytest.fixture(scope="module")
def accounted():
    return parse_accounting(recorded("sacct.txt"), separator=SEPARATOR)


def test_a_running_job_is_read(queue) -> None:
    job = queue[26]
    assert (job.state, job.user, job.partition, job.nodes) == (
        SlurmState.RUNNING,
        "root",
        "classical",
        ("c1",),
    )
    assert job.name == 'a b|"é\x1f'  # a name that holds a separator of Slurm's output
    assert job.tag == SlurmTag("r:1", "worker", 0)
    assert job.licenses == "qpu_piast:1"
    assert tres_of(job.tres)["license/qpu_piast"] == 1
    assert job.started_at == datetime(2026, 11, 29, 7, 38, 37, tzinfo=UTC)
    assert job.ends_by is not None
    assert (job.ends_by - job.started_at).total_seconds() == 600
    assert job.ended_at is None
    assert not job.held


def test_a_held_job_with_a_line_end_in_its_name_is_read(queue) -> None:
    job = queue[27]
    assert (job.name, job.held, job.reason, job.nodes) == ("new\nline", True, "JobHeldUser", ())
    assert job.state.is_waiting
    assert job.ends_by is None


def test_components_of_a_heterogeneous_job_know_their_leader(queue) -> None:
    assert [(queue[n].leader, queue[n].component) for n in (28, 29)] == [(28, 0), (28, 1)]
    assert queue[28].nodes == ("c2", "c3")
    assert queue[26].leader is None


def test_a_requeued_job_counts_its_restarts(queue) -> None:
    assert (queue[36].restarts, queue[36].state, queue[36].nodes) == (1, SlurmState.PENDING, ())


def test_jobs_that_slurm_refused_and_jobs_that_failed_are_told_apart(queue) -> None:
    assert queue[22].was_refused
    assert queue[22].reason == "BadConstraints"
    assert queue[32].state is SlurmState.FAILED
    assert not queue[32].was_refused
    assert queue[32].ended_at is not None


def test_every_job_of_the_record_is_read(queue) -> None:
    assert len(queue) == recorded("squeue.txt").count(END)
    assert not [job for job in queue.values() if job.state is SlurmState.UNKNOWN]


def test_accounting_has_each_attempt_with_what_it_used(accounted) -> None:
    qpu = next(job for job in accounted if job.id == 21)
    assert (qpu.state, qpu.elapsed_s, qpu.node_seconds) == (SlurmState.CANCELLED, 2.0, 2.0)
    assert qpu.tres["gres/qpu"] == 1
    waiting = next(job for job in accounted if job.id == 34)
    assert (waiting.state, waiting.started_at, waiting.node_seconds) == (
        SlurmState.PENDING,
        None,
        0.0,
    )
    assert [job.state for job in accounted if job.id == 36] == [SlurmState.REQUEUED]
    assert next(job.exit_code for job in accounted if job.id == 32) == 3


def test_what_a_cluster_has_is_read() -> None:
    separator = "\x1d0a"  # one that Python takes for the end of a line
    nodes = recorded("sinfo.txt").replace(SEPARATOR, separator)
    found = parse_partitions(recorded("partitions.txt"), nodes, separator=separator)
    assert list(found) == ["classical", "scavenge", "quantum"]
    assert found["classical"].is_default
    assert not found["quantum"].is_default
    assert found["quantum"].gres == {"qpu": 1}
    assert found["quantum"].nodes == ("q1",)
    assert found["classical"].cores_per_node == 4
    assert found["classical"].memory_per_node_bytes == 20000 << 20
    assert found["classical"].max_walltime is not None
    assert found["classical"].max_walltime.total_seconds() == 86400

    maintenance, licensed = parse_reservations(recorded("reservations.txt"))
    assert maintenance.is_maintenance
    assert maintenance.nodes == ("c1",)
    assert (maintenance.ends_at - maintenance.starts_at).total_seconds() == 3600
    assert maintenance.starts_at.utcoffset() is not None
    assert licensed.licenses == {"qpu_piast": 1}
    assert not licensed.is_maintenance

    assert parse_licences(recorded("licenses.txt"))["qpu_piast"].total == 1


@pytest.mark.parametrize(
    ("properties", "groups", "offered"),
    [
        ("Hidden=NO AllowGroups=ALL", (), True),
        ("Hidden=YES AllowGroups=ALL", (), False),
        ("Hidden=NO AllowGroups=staff,physics", ("ada", "physics"), True),
        ("Hidden=NO AllowGroups=staff,physics", ("ada",), False),
    ],
)
def test_partitions_are_offered_that_are_not_hidden_or_for_others(
    properties: str, groups: tuple[str, ...], offered: bool
) -> None:
    shown = f"PartitionName=p {properties} Default=NO\n"
    assert parse_partitions(shown, "", separator="|", groups=groups)["p"].is_offered is offered


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("gpu:2080ti:8", 8),
        ("gpu:3090:4(S:0-1)", 4),
        ("gpu:1g.5gb:7,gpu:a100:2(S:0,1)", 9),
        ("gpu:tesla:no_consume:4", 4),
        ("gpu:2080ti", 1),
        ("gpu:2(IDX:0,1)", 2),
    ],
)
def test_the_type_of_a_gres_is_not_its_count(text: str, count: int) -> None:
    assert gres_of(text) == {"gpu": count}


def test_a_state_that_is_not_known_is_neither_over_nor_waiting() -> None:
    state = state_of("DREAMING")
    assert state is SlurmState.UNKNOWN
    assert not (state.is_over)
    assert not (state.is_waiting)
    assert not (state.is_running)


def test_every_state_is_one_of_waiting_running_over() -> None:
    for state in set(SlurmState) - {SlurmState.UNKNOWN}:
        assert [state.is_waiting, state.is_running, state.is_over].count(True) == 1, state


@given(name=st.text(), comment=st.text())
def test_no_name_and_no_comment_breaks_the_queue(name: str, comment: str) -> None:
    values = dict.fromkeys(QUEUE_FIELDS, "7") | {"State": "RUNNING", "NodeList": "c1"}
    values |= {"Name": name, "Comment": comment}
    if END in name + comment or SEPARATOR in name + comment:
        return  # both are random numbers in a real query
    record = SEPARATOR.join(values[field] for field in QUEUE_FIELDS) + END + "\n"
    first, second = parse_queue(record * 2, separator=SEPARATOR, end=END)
    assert first == second
    assert first.name == name


@given(name=st.text().filter(lambda text: "\x1f" not in text))
def test_no_name_breaks_the_accounting(name: str) -> None:
    values = dict.fromkeys(ACCOUNTING_FIELDS, "7") | {"State": "COMPLETED", "JobName": name}
    line = SEPARATOR.join(values[field] for field in ACCOUNTING_FIELDS) + "\n"
    assert [job.name for job in parse_accounting(line * 3, separator=SEPARATOR)] == [name] * 3


@pytest.mark.parametrize(("tres", "has_nodes"), [("cpu=1,mem=1000M,node=1", True), ("", False)])
def test_an_attempt_requeued_within_its_first_second_had_nodes(tres: str, has_nodes: bool) -> None:
    values = dict.fromkeys(ACCOUNTING_FIELDS, "7") | {"State": "REQUEUED", "AllocTRES": tres}
    values |= {"Start": "None", "End": "1764446413", "ElapsedRaw": "0"}  # as 22.05 prints it
    line = SEPARATOR.join(values[field] for field in ACCOUNTING_FIELDS) + "\n"
    (attempt,) = parse_accounting(line, separator=SEPARATOR)
    assert (attempt.started_at == attempt.ended_at) is has_nodes
    assert (attempt.started_at is not None) is has_nodes


@pytest.mark.parametrize("text", ["", "\n"])
def test_nothing_is_no_job(text: str) -> None:
    assert parse_queue(text, separator=SEPARATOR, end=END) == []
    assert parse_accounting(text, separator=SEPARATOR) == []


@pytest.mark.parametrize("text", ["slurm_load_jobs error: what", f"1{SEPARATOR}RUNNING{END}\n"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="squeue"):
        parse_queue(text, separator=SEPARATOR, end=END)


@pytest.mark.parametrize(
    "text", ["c[1-x]", "c[x]", "c[1-99999999]", "c[", "c[1-2", "c1,", "c1,,c2"]
)
def test_no_list_of_nodes(text: str) -> None:
    with pytest.raises(ValueError, match="nodes"):
        nodes_of(text)


def test_counts_need_numbers() -> None:
    assert counts_of("4(x2),8") == (4, 4, 8)
    with pytest.raises(ValueError, match="counts"):
        counts_of("four")


@pytest.mark.parametrize(
    ("line", "gres", "ending"),
    [
        (0, {"gpu": 2}, ""),
        (1, {}, "exit code 3"),
        (2, {}, "signal 9"),
        (3, {"gpu": 2}, ""),  # of a cluster without gres/gpu in AccountingStorageTRES
    ],
)
def test_what_slurm_says_of_one_job_alone(line, gres, ending) -> None:
    text = recorded("job-details.txt").splitlines()[line]
    found = parse_details(text)
    assert (found.gres_per_node, found.ending) == (gres, ending)
    assert ("gres/gpu=2" in text) is (line == 0)


def test_unlike_nodes_have_the_least_of_their_resources() -> None:
    text = recorded("job-details.txt").splitlines()[0]
    more = text.replace(" MinCPUsNode", "   Nodes=g2 CPU_IDs=0 Mem=1 GRES=gpu:1(IDX:0) MinCPUsNode")
    assert parse_details(more).gres_per_node == {"gpu": 1}
    less = text.replace(" MinCPUsNode", "   Nodes=c1 CPU_IDs=0 Mem=1 GRES= MinCPUsNode")
    assert parse_details(less).gres_per_node == {"gpu": 0}


def test_the_gpus_of_an_allocation_need_not_be_accounted() -> None:
    class Asked(Slurm):
        def details(self, job: int) -> JobDetails:
            return parse_details(recorded("job-details.txt").splitlines()[3])

    steps = AllocationSteps(ThisJob(id=1, nodes=("g1",), cores=(4,)), Asked())
    assert steps.lacks({"gpus": 2}) == {}
    assert steps.lacks({"gpus": 3}).keys() == {"gpus"}
