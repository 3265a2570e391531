"""Each ready flow as a user runs it: it uses what was estimated, and stopped, it ends as if it had not been."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import psutil
import pytest

from hpcqc import estimate
from orchestrator.application.jobs import jobs_of
from orchestrator.broker.core.views import JobView
from orchestrator.config.loading import load_site
from tests.architecture.source import ROOT
from tests.flows.repeated import differences
from tests.flows.small_runs import SMALL_RUNS
from tests.patience import PATIENCE_S, until

SITE = """
[qpu.vlq]
backend = "aer"
profile = "vlq"
time_scale = 0
[compute.local]
workers = 2
"""
# What is measured of this machine, and certificates of the day.
MEASURED = {
    "flows.realtime": ("latency_us", "infrastructure_us", "missed", "summary", "table", "plot"),
    "flows.federated": ("links",),
}
# One with a loop of jobs and training between them, one with workers and jobs side by side. The
# others are run by `make test-all`.
ALWAYS = ("flows.generative", "flows.dissociation")

pytestmark = pytest.mark.usefixtures("prefect_server")
each_flow = pytest.mark.parametrize(
    "whole",
    [
        pytest.param(name, marks=[] if name in ALWAYS else pytest.mark.campaign)
        for name in SMALL_RUNS
    ],
    indirect=True,
)


def test_every_ready_flow_is_here() -> None:
    assert SMALL_RUNS.keys() == {one.name for one in entry_points(group="hpcqc.flows")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A run that nobody stopped. result: without what is measured of this machine."""

    flow: str
    folder: Path
    result: dict[str, Any]
    jobs: list[JobView]


def begin(name: str, run: str, folder: Path) -> subprocess.Popen[str]:
    """Begin `hpcqc run` in the folder, in a session of its own."""
    texts = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in SMALL_RUNS[name].parameters.items()
    }
    given = [word for key, text in texts.items() for word in ("-p", f"{key}={text}")]
    where = ("--site", "site.toml", "--run-id", run, "--out", run)
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli", "run", name, *given, *where],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def result_of(name: str, folder: Path, run: str) -> dict[str, Any]:
    found = json.loads((folder / run / "result.json").read_text())
    return {key: value for key, value in found.items() if key not in MEASURED.get(name, ())}


def jobs_in(folder: Path, run: str) -> list[JobView]:
    return jobs_of(load_site(folder / "site.toml"), run)


def ended_stages(folder: Path, run: str) -> int:
    stages = folder / run / "stages.jsonl"
    return len(stages.read_text().splitlines()) if stages.exists() else 0


def ended(folder: Path, run: str) -> int:
    """Return how many jobs and stages of a run have ended."""
    try:
        jobs = jobs_in(folder, run)
    except ValueError:  # the ledger is being made
        return 0
    return sum(job.state.is_final for job in jobs) + ended_stages(folder, run)


@pytest.fixture(scope="module")
def whole(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    running_prefect_server: Any,
) -> Ended:
    name = request.param
    SMALL_RUNS[name].skip_without_its_extra()
    folder = tmp_path_factory.mktemp(name.partition(".")[2])
    (folder / "site.toml").write_text(SITE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", running_prefect_server.api_url)
        process = begin(name, f"{folder.name}-whole", folder)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    return Ended(
        flow=name,
        folder=folder,
        result=result_of(name, folder, f"{folder.name}-whole"),
        jobs=jobs_in(folder, f"{folder.name}-whole"),
    )


@pytest.mark.slow
@each_flow
def test_a_run_uses_what_was_estimated(
    whole: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("site.toml").write_text(SITE)
    small = SMALL_RUNS[whole.flow]
    parameters = small.parameters | small.dry
    (found,) = estimate(whole.flow, parameters, qpu="vlq", site="site.toml").qpus
    jobs, shots = len(whole.jobs), sum(job.shots for job in whole.jobs)
    assert (found.jobs, found.shots) == (jobs, shots)
    used = sum(job.usage.qpu_seconds for job in whole.jobs)
    assert found.qpu_seconds == pytest.approx(used, rel=0.1)
    assert found.unseeded_jobs == 0
    assert [path.name for path in tmp_path.iterdir()] == ["site.toml"]  # a dry run writes no file


@pytest.mark.slow
@each_flow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_run_that_is_stopped_and_taken_up_again_ends_alike(
    whole: Ended, number: signal.Signals
) -> None:
    run = f"{whole.folder.name}-{number.name}"
    steps = ended(whole.folder, f"{whole.folder.name}-whole")
    moment = random.randrange(1, steps)
    print(f"stopped after {moment} of {steps} jobs and stages")
    process = begin(whole.flow, run, whole.folder)
    until(
        lambda: process.poll() is not None or ended(whole.folder, run) >= moment,
        lambda: f"{ended(whole.folder, run)} of {moment}",
        pause_s=0.05,
    )
    family = []
    if process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)
        if number is signal.SIGKILL:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE_S)
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert not alive
    if process.returncode != 0:  # it was not faster than the other
        assert process.returncode == (130 if number is signal.SIGINT else -number), errors
        assert "Traceback" not in errors

    again = begin(whole.flow, run, whole.folder)
    _, errors = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, errors
    assert not differences(whole.result, result_of(whole.flow, whole.folder, run))
    jobs = jobs_in(whole.folder, run)
    count, expected = len(jobs), len(whole.jobs)
    assert count == expected > 0
    # How a job is cut into tasks may differ: that depends on what the broker has measured.
    assert completed_shots(jobs) == completed_shots(whole.jobs)
    assert {task.starts for job in jobs for task in job.tasks if task.state == "completed"} == {1}


def completed_shots(jobs: list[JobView]) -> list[int]:
    return sorted(
        sum(task.shots for task in job.tasks if task.state == "completed") for job in jobs
    )
