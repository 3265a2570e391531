"""What the client does when Slurm's programs fail, print something else, or are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.slurm import JobResources, JobScript, Slurm, SlurmRefused, SlurmUnavailable
from orchestrator.slurm.states import QUEUE_FIELDS


@pytest.fixture
def with_programs(tmp_path: Path):
    """Make a client whose programs are the given lines of shell; it counts them in a file."""

    def make(patience_s: float = 0, **programs: str) -> Slurm:
        for name, lines in programs.items():
            file = tmp_path / name
            file.write_text(f"#!/bin/bash\necho {name} >> {tmp_path}/started\n{lines}\n")
            file.chmod(0o700)
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        return Slurm(
            environment=environment, patience_s=patience_s, timeout_s=30, sleep=lambda _: None
        )

    return make


def started(folder: Path) -> list[str]:
    return (folder / "started").read_text().split()


# Print a job with each id that is asked for, in the form that is asked for.
SQUEUE = r"""
for word in "$@"; do case $word in
  --jobs=*) ids=${word#--jobs=} ;;
  --Format=*) form=${word#--Format=} ;;
esac; done
separator=${form#JobID:0}; separator=${separator%%,*}; end=${form##*Name:0}
for id in ${ids//,/ }; do
  printf "%s$separator" "$id" RUNNING FIELDS
  printf "%s$end\n" name
done
"""


def test_the_states_of_many_jobs_take_one_program(with_programs, tmp_path) -> None:
    fields = " ".join(["1"] * (len(QUEUE_FIELDS) - 3))
    client = with_programs(squeue=SQUEUE.replace("FIELDS", fields))
    ids = range(5000, 6000)
    assert set(client.jobs(ids)) == set(ids)
    assert started(tmp_path) == ["squeue"]


def test_a_query_is_repeated_until_slurm_answers(with_programs, tmp_path) -> None:
    away = f'[ $(wc -l < {tmp_path}/started) -gt 2 ] || {{ echo "Socket timed out" >&2; exit 1; }}'
    client = with_programs(squeue=away, patience_s=100)
    assert client.jobs() == {}
    assert started(tmp_path) == ["squeue"] * 3


@pytest.mark.parametrize(
    "lines",
    ["echo some text", "echo a new kind of error >&2; exit 1", "kill -9 $$", "exec sleep 600"],
)
def test_a_query_that_fails_is_no_answer(with_programs, lines) -> None:
    client = with_programs(squeue=lines)
    client.timeout_s = 1
    with pytest.raises(SlurmUnavailable) as error:
        client.jobs()
    assert error.value.retryable


@pytest.fixture
def script(tmp_path: Path) -> JobScript:
    return JobScript(
        name="n",
        tag="hpcqc:v1:r:worker:0",
        resources=JobResources(),
        body=("true",),
        directory=tmp_path,
        output=tmp_path / "out.txt",
    )


LOST = "echo Socket timed out on send/recv operation >&2; exit 1"


def test_a_submission_stays_in_doubt_while_nobody_can_look(with_programs, script, tmp_path) -> None:
    client = with_programs(sbatch=LOST, squeue=LOST, patience_s=0.5)
    with pytest.raises(SlurmUnavailable) as error:
        client.submit(script)
    assert error.value.submitted
    assert script.tag in str(error.value)
    assert started(tmp_path).count("sbatch") == 1  # not again before somebody has looked


def test_a_job_whose_id_is_known_is_not_lost_with_the_connection(
    with_programs, script, tmp_path
) -> None:
    once = f"[ $(grep -c sbatch {tmp_path}/started) -gt 1 ] && echo 7 || {{ {LOST}; }}"
    looked = f"[ $(grep -c sbatch {tmp_path}/started) -eq 1 ] || {{ {LOST}; }}"
    client = with_programs(sbatch=once, squeue=looked, patience_s=1)
    client.settle_s = 0
    assert client.submit(script) == 7


def test_a_controller_that_is_down_leaves_no_doubt(with_programs, script, tmp_path) -> None:
    client = with_programs(sbatch="echo Unable to contact slurm controller >&2; exit 1")
    with pytest.raises(SlurmUnavailable) as error:
        client.submit(script)
    assert not error.value.submitted
    assert started(tmp_path) == ["sbatch"]


@pytest.mark.parametrize(
    "words", ["Unable to contact slurm controller (receive failure)", "Message receive failure"]
)
def test_an_answer_that_breaks_off_leaves_doubt(with_programs, script, tmp_path, words) -> None:
    client = with_programs(sbatch=f"echo '{words}' >&2; exit 1", squeue="true")
    client.settle_s = 0
    with pytest.raises(SlurmUnavailable) as error:
        client.submit(script)
    assert error.value.submitted
    assert started(tmp_path) == ["sbatch", "squeue"]


@pytest.mark.parametrize(
    "words",
    [
        "Communication connection failure",
        "Message send failure",
        "Unable to create job record, try again",
        "Slurm backup controller in standby mode",
    ],
)
def test_a_connection_that_fails_is_no_refusal(with_programs, script, words) -> None:
    failing = f"echo 'error: {words}' >&2; exit 1"
    client = with_programs(sbatch=failing, scancel=failing)
    for call in (lambda: client.submit(script), lambda: client.cancel([7])):
        with pytest.raises(SlurmUnavailable) as error:
            call()
        assert error.value.retryable
        assert not error.value.submitted


@pytest.mark.parametrize(
    "words",
    ["Invalid account or account/partition combination specified", "Invalid qos specification"],
)
def test_a_job_that_slurm_would_never_take_is_refused_before(with_programs, script, words) -> None:
    client = with_programs(
        sbatch=f'[ "$1" = --test-only ] && echo "allocation failure: {words}" >&2; exit 1',
        sinfo="exit 1",
    )
    with pytest.raises(SlurmRefused, match=f"job: {words}") as error:
        client.check(script)
    assert words in error.value.words


@pytest.mark.parametrize(
    "lines",
    [
        "echo 'sbatch: Job 7 to start at 2026-11-29T12:00:00' >&2",
        "echo 'allocation failure: Required partition not available' >&2; exit 1",
        "echo 'allocation failure: Requested node configuration is not available' >&2; exit 1",
    ],
)
def test_a_job_that_may_start_some_day_is_not_refused(with_programs, script, lines) -> None:
    with_programs(sbatch=lines).check(script)


def test_a_controller_that_is_away_refuses_nothing(with_programs, script) -> None:
    with pytest.raises(SlurmUnavailable):
        with_programs(sbatch=LOST).check(script)


def test_without_accounting_nothing_is_repeated(with_programs, tmp_path) -> None:
    disabled = "echo Slurm accounting storage is disabled >&2; exit 1"
    client = with_programs(sacct=disabled, patience_s=100)
    with pytest.raises(SlurmUnavailable) as error:
        client.accounting(ids=[1])
    assert not error.value.retryable
    assert started(tmp_path) == ["sacct"]


def test_a_missing_program_is_named(with_programs) -> None:
    client = with_programs(patience_s=100)
    client._environment = {"PATH": "/nowhere"}
    with pytest.raises(SlurmUnavailable, match="squeue") as error:
        client.jobs()
    assert not error.value.retryable


def test_what_changed_meanwhile_is_no_error_and_what_is_forbidden_is_one(with_programs) -> None:
    ended = 'echo "scancel: error: Kill job error on job id 7: Job has already finished" >&2'
    client = with_programs(scancel=f"{ended}; exit 1")
    client.cancel([7])
    forbidden = 'echo "scancel: error: Kill job error on job id 8: Access/permission denied" >&2'
    client = with_programs(scancel=f"{ended}; {forbidden}; exit 1")
    with pytest.raises(SlurmRefused, match="permission denied"):
        client.cancel([7, 8])


def test_jobs_that_ended_meanwhile_keep_no_others_from_being_released(with_programs) -> None:
    # As scontrol 22.05 printed it when job 1 had ended and job 7 was released.
    words = "Job has already finished for job 1\nslurm_suspend error: No error"
    client = with_programs(scontrol=f"echo '{words}' >&2; exit 1")
    client.release([1, 7])
    client.hold([1, 7])


@pytest.mark.parametrize(
    ("limit", "passes"), [("QOSMaxSubmitJobPerUserLimit", True), ("QOSMaxCpuPerJobLimit", False)]
)
def test_a_limit_on_the_number_of_jobs_passes(with_programs, script, limit, passes) -> None:
    words = (
        f"sbatch: error: {limit}\nsbatch: error: Batch job submission failed: Job violates "
        "accounting/QOS policy (job submit limit, the size and/or time limits of a user)"
    )
    silent = dict.fromkeys(("sinfo", "scontrol"), "true")
    client = with_programs(sbatch=f"echo '{words}' >&2; exit 1", **silent)
    with pytest.raises(SlurmRefused) as error:
        client.submit(script)
    assert error.value.passes is passes


def test_the_largest_node_of_a_partition_counts(with_programs) -> None:
    # As sinfo 22.05 printed two kinds of nodes, with --exact and without it.
    prints = r"""
for word in "$@"; do case $word in
  --exact) rows="1024 1 100 1 1K 64000" ;;
  --Format=*) separator=${word#--Format=PartitionName:0}; separator=${separator%%,*} ;;
esac; done
for field in ${rows:-1025 1+ 100+}; do fields+=($field); done
for ((n = 0; n < ${#fields[@]}; n += 3)); do
  for field in wide ${fields[@]:n:3} "(null)" 0/0/1/1 "(null)"; do printf "%s" "$field$separator"; done
  echo
done
"""
    client = with_programs(scontrol="echo PartitionName=wide MaxNodes=UNLIMITED", sinfo=prints)
    wide = client.partitions()["wide"]
    assert (wide.cores_per_node, wide.memory_per_node_bytes) == (1024, 64000 << 20)


def test_partitions_that_slurm_hides_are_known_too(with_programs) -> None:
    hides = 'case "$*" in *--all*) echo "PartitionName=secret Hidden=YES" ;; esac'
    client = with_programs(scontrol=hides, sinfo="true")
    assert client.partitions().keys() == {"secret"}
