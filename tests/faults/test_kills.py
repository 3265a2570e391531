"""Processes killed outright: nothing is lost, nothing is started twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.broker.core import events as ev
from orchestrator.broker.core.views import JobState
from orchestrator.broker.ledger import Ledger
from tests.faults.loop import CALLS
from tests.patience import PATIENCE_S

LOOP = Path(__file__).with_name("loop.py")
ROOT = LOOP.parents[2]


def begin(run: str, out: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, str(LOOP), run, str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n", process.communicate()[1]
    return process


def starts_per_task(ledger: Ledger, run: str) -> Counter[str]:
    """Count the starts that a backend accepted; finding a task again does not count."""
    return Counter(
        event.tag for event, _ in ledger.events(run) if isinstance(event, ev.TaskStarted)
    )


def run_with_kills(out: Path, moments: list[str]) -> int:
    """Kill the run once after each of the lines that it prints, then let it end."""
    kills = 0
    for moment in moments:
        process = begin("killed", out)
        assert process.stdout is not None
        assert any(line.strip() == moment for line in process.stdout), process.communicate()[1]
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    process = begin("killed", out)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    return kills


def check(isolated_state: Path, out: Path, reference: Path) -> None:
    assert json.loads(out.read_text()) == json.loads(reference.read_text())
    ledger = Ledger.open(isolated_state / "ledger.sqlite")
    jobs = ledger.jobs("killed")
    assert all(job.state is JobState.COMPLETED for job in jobs)
    assert all(len([t for t in job.tasks if t.state == "completed"]) == 1 for job in jobs)
    assert len(jobs) == len(ledger.jobs("whole"))
    started = starts_per_task(ledger, "killed")
    assert set(started.values()) <= {1}
    assert all(sum(task.starts for task in job.tasks) == 1 for job in jobs)
    ledger.close()


@pytest.mark.slow
def test_a_loop_killed_and_run_again_ends_as_if_nothing_had_happened(
    isolated_state: Path, tmp_path: Path
) -> None:
    process = begin("whole", tmp_path / "whole.json")
    process.communicate(timeout=PATIENCE_S)
    kills = run_with_kills(tmp_path / "killed.json", ["submitted 2", "completed 9"])
    assert kills >= 1
    check(isolated_state, tmp_path / "killed.json", tmp_path / "whole.json")


@pytest.mark.slow
def test_many_kills_at_random_moments(isolated_state: Path, tmp_path: Path) -> None:
    process = begin("whole", tmp_path / "whole.json")
    process.communicate(timeout=PATIENCE_S)
    chance = random.Random(5)
    numbers = sorted(chance.sample(range(CALLS - 5), 12))
    moments = [f"{chance.choice(('begun', 'submitted', 'completed'))} {n}" for n in numbers]
    kills = run_with_kills(tmp_path / "killed.json", moments)
    assert kills >= 6
    check(isolated_state, tmp_path / "killed.json", tmp_path / "whole.json")


@pytest.mark.slow
def test_a_run_is_worked_on_by_one_process_at_a_time(isolated_state: Path, tmp_path: Path) -> None:
    first = begin("shared", tmp_path / "first.json")
    os.kill(first.pid, signal.SIGSTOP)  # alive, and holding the run
    try:
        second = subprocess.run(
            [sys.executable, str(LOOP), "shared", str(tmp_path / "second.json")],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            timeout=PATIENCE_S,
            check=False,
        )
        assert f"being worked on by process {first.pid}" in second.stderr
    finally:
        os.kill(first.pid, signal.SIGCONT)
        first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 0
