"""Ready flows that are killed or interrupted in their work and taken up again end as if they had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from hpcqc import run_flow
from orchestrator.application.jobs import jobs_of
from orchestrator.broker.core.views import JobView
from orchestrator.config.loading import load_site
from tests.architecture.source import ROOT
from tests.flows.repeated import differences
from tests.patience import PATIENCE_S, until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

SITE = """
[qpu.aer]
backend = "aer"
[compute.local]
workers = 2
"""
WHERE = ("--site", "site.toml", "--run-id", "stopped", "--out", "stopped")
# What is measured of this machine.
MEASURED = ("latency_us", "infrastructure_us", "missed", "summary", "table", "plot")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A run that is stopped. needs: modules. moment: the time has come, by jobs and stages that ended."""

    needs: tuple[str, ...]
    parameters: dict[str, Any]
    number: signal.Signals
    moment: Callable[[list[JobView], list[str], list[str]], bool]


CASES = {
    # A loop of jobs, with training in between.
    "generative": Case(
        needs=("pyscf", "ffsim", "jax", "optax"),
        parameters={"molecule": "h2", "bond": 0.735, "length": 2, "rounds": 4, "circuits": 4},
        number=signal.SIGKILL,
        moment=lambda jobs, _stages, _commands: sum(job.state.is_final for job in jobs) >= 3,
    ),
}


def begin(name: str, case: Case) -> subprocess.Popen[str]:
    texts = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in case.parameters.items()
    }
    given = [word for key, text in texts.items() for word in ("-p", f"{key}={text}")]
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli", "run", f"flows.{name}", *given, *WHERE],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def stages() -> list[str]:
    """Return the names of the stages that have ended."""
    file = Path("stopped/stages.jsonl")
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line)["name"].rpartition("-")[0] for line in lines]


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def commands(found: list[psutil.Process]) -> list[str]:
    words = []
    for one in found:
        try:
            words.append(" ".join(one.cmdline()) + " ")
        except psutil.Error:
            continue
    return words


def stop(process: subprocess.Popen[str], case: Case) -> list[psutil.Process]:
    """Signal the run when its moment has come; return the processes that it had."""

    def come() -> bool:
        if process.poll() is not None:
            return True
        try:
            found = jobs_of(load_site(Path("site.toml")), "stopped")
        except ValueError:  # read while it is being made
            return False
        return case.moment(found, stages(), commands(children(process)))

    try:
        until(come, lambda: (stages(), commands(children(process))), pause_s=0.02)
    except AssertionError:
        process.kill()
        raise
    assert process.poll() is None, process.communicate()
    family = children(process)
    if case.number is signal.SIGKILL:
        os.killpg(process.pid, case.number)
    else:
        process.send_signal(case.number)
    return family


@pytest.mark.parametrize("name", CASES)
def test_a_flow_that_is_stopped_and_taken_up_again_ends_alike(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    for module in case.needs:
        pytest.importorskip(module, reason=f"an extra of flows.{name} is not installed")
    monkeypatch.chdir(tmp_path)
    Path("site.toml").write_text(SITE)
    process = begin(name, case)
    family = stop(process, case)
    _, errors = process.communicate(timeout=PATIENCE_S)
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert not alive
    if case.number is signal.SIGINT:
        assert process.returncode == 130
        assert "Traceback" not in errors
        assert "--run-id stopped" in errors
    assert not Path("stopped/result.json").exists()

    ends = {}
    for run in ("stopped", "whole"):
        ends[run] = run_flow(
            f"flows.{name}", case.parameters, site="site.toml", run_id=run, out=run
        ).value
        for key in MEASURED:
            ends[run].pop(key, None)
    assert not differences(ends["whole"], ends["stopped"])
    known = {run: jobs_of(load_site(Path("site.toml")), run) for run in ends}
    assert len(known["stopped"]) == len(known["whole"]) > 0
    tasks = [task for job in known["stopped"] for task in job.tasks]
    completed = [task for task in tasks if task.state == "completed"]
    assert len(completed) == sum(len(job.tasks) for job in known["whole"])
    assert all(task.starts == 1 for task in completed)
