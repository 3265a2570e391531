"""The client against a real Slurm: jobs are submitted once, and found again with what they are."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path
from shutil import which

import pytest

from orchestrator.identity import SlurmTag, slurm_job_name
from orchestrator.slurm import (
    JobResources,
    JobScript,
    Slurm,
    SlurmRefused,
    SlurmState,
    SlurmUnavailable,
)
from tests.patience import until

pytestmark = pytest.mark.slurm

NUMBERS = count()
AWAY = "sbatch: error: Batch job submission failed: Unable to contact slurm controller"
LOST = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"


@pytest.fixture
def client(slurm) -> Iterator[Slurm]:
    client = Slurm(environment=slurm.environment, patience_s=20)
    before = set(client.jobs())
    yield client
    client.cancel(set(client.jobs()) - before)


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., JobScript]:
    def make(**changes) -> JobScript:
        known = {
            "name": slurm_job_name("test", "client"),
            "tag": str(
                SlurmTag(f"{tmp_path.parent.name}/{tmp_path.name}", "worker", next(NUMBERS))
            ),
            "resources": JobResources(
                partition="classical", cores=1, walltime=timedelta(minutes=5)
            ),
            "body": ("sleep 120",),
            "directory": tmp_path,
            "output": tmp_path / "out.txt",
        }
        return JobScript(**(known | changes))

    return make


def with_tag(client: Slurm, tag: str) -> list[int]:
    """Return the jobs with a tag that could do their work."""
    jobs = client.jobs().values()
    return [job.id for job in jobs if job.comment == tag and job.state is not SlurmState.CANCELLED]


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "with spaces  twice",
        'it\'s "quoted"',
        r"back\slash\\",
        "größe ∑ 量子",
        "#no %j $HOME",
    ],
)
def test_names_and_paths_reach_slurm_as_they_are(client, script, tmp_path, name) -> None:
    folder = tmp_path / name.replace("\\", "")
    folder.mkdir()
    made = script(
        name=name, directory=folder, output=folder / "o %j.txt", body=("pwd; touch made",)
    )
    job = client.submit(made)
    ended = until(lambda: (found := client.jobs([job])[job]).state.is_over and found)
    assert (ended.name, ended.comment, ended.state) == (name, made.tag, SlurmState.COMPLETED)
    text = until((folder / "o %j.txt").read_text)
    assert text.strip() == str(folder)
    for file in ("o %j.txt", "made"):
        assert stat.S_IMODE((folder / file).stat().st_mode) == 0o600


def test_a_job_gets_no_secrets_and_no_options_of_the_process_that_submits_it(
    slurm, script, tmp_path
) -> None:
    strange = {
        "AWS_SECRET_ACCESS_KEY": "x",
        "SSH_AUTH_SOCK": "/x",
        "HPCQC_BROKER_TOKEN": "x",
        "CONDA_TOKEN": "x",
        "SBATCH_PARTITION": "nowhere",
        "SBATCH_EXPORT": "NONE",
        "SQUEUE_FORMAT": "%j",
        "SLURM_JOB_ID": "1",
        "OMP_NUM_THREADS": "3",
    }
    client = Slurm(environment={**slurm.environment, **strange})
    job = client.submit(script(body=("env -0 > env",), environment={"HPCQC_STATE_DIR": "/a b"}))
    until(lambda: client.jobs([job])[job].state.is_over)
    lines = until((tmp_path / "env").read_text).split("\0")
    found = dict(line.split("=", 1) for line in lines if line)
    assert set(found) & set(strange) == {"OMP_NUM_THREADS", "SLURM_JOB_ID"}
    assert (found["SLURM_JOB_ID"], found["OMP_NUM_THREADS"]) == (str(job), "3")
    assert found["HPCQC_STATE_DIR"] == "/a b"


def test_a_held_job_is_released_and_cancelled(client, script) -> None:
    job = client.submit(script(held=True))
    assert client.jobs([job])[job].held
    client.release([job])
    running = until(lambda: (one := client.jobs([job])[job]).state.is_running and one)
    assert len(running.nodes) == running.node_count == 1
    assert running.ends_by is not None
    client.cancel([job])
    assert until(lambda: client.jobs([job])[job].state.is_over)
    client.cancel([job])
    client.hold([job])
    client.release([job])
    waiting = client.submit(script(held=True))
    client.release([job, waiting])  # those that can be changed are
    assert not client.jobs([waiting])[waiting].held


def test_jobs_that_slurm_does_not_know_are_absent(client, script) -> None:
    job = client.submit(script(held=True))
    assert set(client.jobs([job, 60_000_000])) == {job}
    for never in (
        0,
        2**31,
        2**32 + job,
        2**63 - 1,
    ):  # squeue would refuse the list, or read another id
        assert set(client.jobs([job, never])) == {job}
        assert client.jobs([never]) == {}
    assert client.jobs([60_000_000]) == {}
    assert client.jobs([]) == {}
    assert client.find("hpcqc:v1:nobody:worker:0") is None
    client.cancel([60_000_000])


def test_a_heterogeneous_job_is_found_by_its_leader(client, script) -> None:
    made = script(held=True, also=(JobResources(partition="quantum", gres="qpu:1"),))
    job = client.submit(made)
    parts = client.jobs([job])
    assert sorted(one.component for one in parts.values()) == [0, 1]
    assert {one.leader for one in parts.values()} == {job}
    found = client.find(made.tag)
    assert found is not None
    assert found.id == job
    client.cancel(parts)
    until(lambda: all(one.state.is_over for one in client.jobs([job]).values()), pause_s=0.1)


def test_what_slurm_forbids_for_one_job_is_not_lost_among_others(client, script) -> None:
    job = client.submit(script(held=True))
    with pytest.raises(SlurmRefused):
        client.requeue(job)  # it is not running


def test_accounting_has_what_a_job_used(client, script) -> None:
    made = script(
        resources=JobResources(partition="quantum", gres="qpu:1"), body=("sleep 2", "exit 3")
    )
    job = client.submit(made)

    def accounted():
        (found,) = client.accounting(ids=[job]) or [None]
        return found if found is not None and found.state.is_over else None

    ended = until(accounted)
    assert (ended.state, ended.exit_code, ended.node_count) == (SlurmState.FAILED, 3, 1)
    assert ended.tres["gres/qpu"] == 1
    assert ended.elapsed_s >= 2
    assert ended.node_seconds == ended.elapsed_s
    # A busy slurmdbd knows of a job by its number before it does by its times.
    until(lambda: ended.id in {one.id for one in client.accounting(since=ended.submitted_at)})
    assert client.accounting(ids=[60_000_000]) == []


@pytest.mark.parametrize(
    "resources",
    [
        JobResources(partition="nowhere"),
        JobResources(partition="classical", gres="qpu:1"),
        JobResources(gres="nothing:1"),
        JobResources(memory_bytes=1 << 50),
        JobResources(licenses="nothing:1"),
        JobResources(reservation="nothing"),
        JobResources(constraint="nothing"),
    ],
)
def test_slurm_refuses_in_its_own_words_and_keeps_no_job(client, script, resources) -> None:
    made = script(resources=resources)
    with pytest.raises(SlurmRefused) as refused:
        client.submit(made)
    assert refused.value.words.splitlines()[-1].removeprefix("sbatch: error: ") in str(
        refused.value
    )
    assert client.find(made.tag) is None


def test_what_the_cluster_has_is_read(client) -> None:
    partitions = client.partitions()
    assert partitions["quantum"].gres["qpu"] >= 1
    assert [one.name for one in partitions.values() if one.is_default] == ["classical"]
    assert client.version() >= (22, 5, 0)
    assert all(one.total >= one.free >= 0 for one in client.licenses().values())


# What happens to the first submissions, {real} being the real sbatch; then that one is called.
FAULTS = {
    "hangs after the job is stored": '{real} "$@" >/dev/null; exec sleep 600',
    "hangs before the job is stored": "exec sleep 600",
    "loses the answer": '{real} "$@" >/dev/null; echo "' + LOST + '" >&2; exit 1',
    "is killed after the job is stored": '{real} "$@" >/dev/null; kill -9 $$',
    "prints something else": '{real} "$@" >/dev/null; echo warning',
    "finds no controller": 'echo "' + AWAY + '" >&2; exit 1',
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_job_is_submitted_once_whatever_happens_to_sbatch(
    slurm, client, script, tmp_path, fault
) -> None:
    environment = with_sbatch(tmp_path, slurm.environment, fault, times=2)
    failing = Slurm(environment=environment, timeout_s=4, settle_s=2)
    made = script(held=True)
    job = failing.submit(made)
    assert with_tag(client, made.tag) == [job]


def test_of_two_jobs_the_first_stays_if_a_submission_arrives_late(
    slurm, client, script, tmp_path
) -> None:
    late = f"""
        if [ "$n" = 1 ]; then
          cat > script
          (until [ -e second ]; do sleep 0.1; done; {{real}} "$@" < script; touch arrived) \\
            >/dev/null 2>&1 &
          echo "{LOST}" >&2; exit 1
        fi
        touch second; until [ -e arrived ]; do sleep 0.1; done; exec {{real}} "$@"
    """
    environment = with_sbatch(tmp_path, slurm.environment, late, times=2)
    made = script(held=True)
    job = Slurm(environment=environment, settle_s=0).submit(made)
    assert with_tag(client, made.tag) == [job]
    assert len([one for one in client.jobs().values() if one.comment == made.tag]) == 2


def test_a_submission_that_stays_in_doubt_says_so(slurm, script, tmp_path) -> None:
    environment = with_sbatch(tmp_path, slurm.environment, "exec sleep 600", times=99)
    with pytest.raises(SlurmUnavailable) as error:
        Slurm(environment=environment, timeout_s=1, settle_s=0, patience_s=1).submit(script())
    assert error.value.submitted


def test_without_a_controller_a_call_ends_after_its_patience(slurm, tmp_path) -> None:
    if slurm.root is None:
        pytest.skip("the configuration of an existing cluster is not for changing")
    known = Path(slurm.environment["SLURM_CONF"]).read_text()
    elsewhere = tmp_path / "slurm.conf"  # where no controller listens
    elsewhere.write_text(re.sub(r"(?m)^SlurmctldPort=.*$", "SlurmctldPort=1", known))
    nowhere = {**slurm.environment, "SLURM_CONF": str(elsewhere)}
    client = Slurm(environment=nowhere, patience_s=0)
    with pytest.raises(SlurmUnavailable) as error:
        client.jobs()
    assert error.value.retryable


def with_sbatch(folder: Path, environment, fault: str, *, times: int) -> dict[str, str]:
    """Return an environment whose sbatch fails some times, and then is the real one."""
    binaries = folder / "bin"
    binaries.mkdir()
    real = which("sbatch", path=environment["PATH"])
    program = binaries / "sbatch"
    program.write_text(
        f"#!/bin/bash\ncd {binaries}\nn=$(($(cat count 2>/dev/null || echo 0) + 1)); echo $n > count\n"
        f'if [ "$n" -gt {times} ]; then exec {real} "$@"; fi\n' + fault.replace("{real}", str(real))
    )
    program.chmod(0o700)
    return {**environment, "PATH": f"{binaries}:{environment['PATH']}"}
