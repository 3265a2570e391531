"""Another user of a cluster learns of a job what Slurm shows to all, and not what it does."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.identity import SlurmTag, slurm_job_name
from orchestrator.slurm import JobResources, JobScript, Slurm
from tests.patience import until
from tests.slurm.demo import Demo, keepers
from tests.strangers.stranger import (
    answers,
    as_stranger,
    listening,
    need_strangers,
    open_to_others,
    readable,
)

pytestmark = pytest.mark.slurm
MARK = "only-the-owner-may-know"


def test_a_stranger_reads_no_script_environment_or_output_of_a_job(slurm, tmp_path: Path) -> None:
    need_strangers()
    for folder in (tmp_path, *tmp_path.parents[:-2]):  # the files themselves are closed
        folder.chmod(0o755)
    output = tmp_path / "out.txt"
    client = Slurm(environment=slurm.environment)
    job = client.submit(
        JobScript(
            name=slurm_job_name("secret", "worker"),
            tag=str(SlurmTag("secret", "worker", 0)),
            resources=JobResources(cores=1, walltime=timedelta(minutes=5)),
            environment={"HPCQC_MARK": MARK},
            body=(f"echo {MARK}", f"echo {MARK} > made", "sleep 120"),
            directory=tmp_path,
            output=output,
        )
    )
    try:
        until((tmp_path / "made").exists, pause_s=0.1)
        known = {name: slurm.environment[name] for name in ("PATH", "SLURM_CONF")}
        using = ["env", *(f"{name}={value}" for name, value in known.items())]
        seen = as_stranger([*using, "scontrol", "show", "job", "-dd", str(job)])
        assert str(job) in seen.stdout  # the cluster answers to this user, too
        tried = [
            [*using, "scontrol", "write", "batch_script", str(job), "-"],
            ["cat", str(output)],
            ["cat", str(tmp_path / "made")],
            ["sh", "-c", "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline"],
        ]
        if slurm.root is not None:
            spool = shlex.quote(str(slurm.root / "spool"))
            tried.append(["sh", "-c", f"grep -r {MARK[:-1]} {spool}"])
        leaked = [argv for argv in tried if MARK in as_stranger(argv).stdout]
        assert (leaked, MARK in seen.stdout) == ([], False)
        assert as_stranger([*using, "scancel", str(job)]).returncode != 0
        assert client.jobs([job])[job].state.is_running
    finally:
        client.cancel([job])


def test_a_tag_that_a_stranger_uses_is_not_taken_for_ours(slurm) -> None:
    need_strangers()
    tag = str(SlurmTag("secret", "worker", 1))
    known = {name: slurm.environment[name] for name in ("PATH", "SLURM_CONF")}
    using = ["env", *(f"{name}={value}" for name, value in known.items())]
    argv = ["sbatch", "--parsable", "--hold", "--output=/dev/null", f"--comment={tag}"]
    made = as_stranger([*using, *argv, "--wrap=true"])
    if made.returncode:
        pytest.skip(f"user nobody may not submit here: {made.stderr.strip()}")
    job = int(made.stdout.split(";")[0])
    client = Slurm(environment=slurm.environment)
    try:
        assert job in client.jobs([job])
        assert client.find(tag) is None
        assert job not in client.jobs()
    finally:
        as_stranger([*using, "scancel", str(job)])


@pytest.mark.slow
def test_a_stranger_gets_nothing_from_worker_jobs(slurm) -> None:
    need_strangers()
    folder = Path(tempfile.mkdtemp(prefix="hpcqc-strangers-"))
    folder.chmod(0o755)  # others may enter it, unlike pytest's own
    demo = Demo(slurm, folder)
    try:
        demo.prepare()
        demo.begin()
        job = demo.started()
        files = [demo.state, folder / "hpcqc-runs"]
        assert (demo.state / "slurm" / demo.id / "connection.json").is_file()
        assert readable(*files) == []
        assert open_to_others(*files) == []
        ports, named = listening(keepers(job))
        assert ports, "the worker's"
        assert answers(ports) == {port: [] for port in ports}
        # slurmstepd has a socket of its own; munge guards it.
        assert [name for name in named if "/spool/" not in name] == []
        commands = as_stranger(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).stdout
        assert "orchestrator.compute.worker" in commands
        assert "PRIVATE KEY" not in commands
        demo.end()
    finally:
        demo.abandon()
        shutil.rmtree(folder)
