"""``hpcqc runs``, ``logs`` and ``cancel``, from other processes than the run's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.agent.processes import ProcessIdentity
from orchestrator.application.cancel import cancel_run
from orchestrator.application.jobs import jobs_of
from orchestrator.application.known_runs import run_view, runs
from orchestrator.application.register import (
    RegisteredRun,
    advice_after_haste,
    cancel_requested,
    find_registered,
    register,
    registered_runs,
)
from orchestrator.application.run_logs import follow_logs, run_logs
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.provenance.schema import read_record
from tests.application.ran import leave, record
from tests.architecture.source import ROOT
from tests.cli.flows import FLOW, LONG
from tests.patience import PATIENCE_S, until

# The command line, where a second Ctrl-C comes while a run is being closed.
IMPATIENT = """
import os, signal, threading
from orchestrator.application.execution import RunExecution
from orchestrator.cli import main

def close(self, resuming_s=None):
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait()

RunExecution.close = close
main()
"""
COMMAND_LINE = ("-m", "orchestrator.cli")


def begin(
    folder: Path, run: str, command_line: Sequence[str] = COMMAND_LINE
) -> subprocess.Popen[str]:
    """Start a run in a process of its own; return when its job is on the QPU."""
    (folder / "long.py").write_text(LONG)
    process = subprocess.Popen(
        [sys.executable, *command_line, "run", "long.py", "--run-id", run],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until(lambda: process.poll() is not None or states(run) == ["running"])
    assert process.poll() is None, process.communicate()
    return process


def states(run: str) -> list[str]:
    try:
        return [job.state.value for job in jobs_of(load_site(), run)]
    except ValueError:  # the ledger is being made
        return []


def entry(run: str, folder: Path, **changes: Any) -> RegisteredRun:
    made = {"id": run, "target": "f.py:f", "flow": "f", "folder": folder, "site": None}
    return RegisteredRun.model_validate(made | {"registered_at": "2026-01-01T00:00:00Z", **changes})


@pytest.mark.usefixtures("prefect_server")
def test_a_run_that_has_ended(hpcqc, tmp_path) -> None:
    (tmp_path / "shares.py").write_text(FLOW)
    assert hpcqc("runs").code == 0
    for run in ("first", "second"):
        assert hpcqc("run", "shares.py", "-p", "points=2", "--run-id", run).code == 0
    first, second = hpcqc("runs", "--json").document
    assert (first["id"], second["id"]) == ("first", "second")
    record = read_record(tmp_path / "hpcqc-runs" / "first")
    assert first["flow"] == "shares"
    assert first["state"] == "completed"
    assert first["stages_done"] == 4
    assert first["qpu_seconds"] == record.usage.total.qpu_seconds
    assert first["process"] == os.getpid()
    assert first["folder"] == str(tmp_path / "hpcqc-runs" / "first")
    assert first["stored_bytes"] > 0
    assert [view.id for view in runs(1)] == ["second"]
    assert run_view("fir").id == "first"
    text = hpcqc("runs").out
    assert "first" in text
    assert "completed" in text
    shown = hpcqc("runs", "first", "--json").document
    assert shown["result"] == json.loads((tmp_path / "hpcqc-runs/first/result.json").read_text())
    assert shown["quantum_jobs"] == {"completed": len(record.jobs)}
    assert shown["logs"] == [str(tmp_path / "hpcqc-runs" / "first" / "run.log")]
    printed = hpcqc("runs", "first").out
    assert f"{len(record.jobs)} completed" in printed
    assert "2 shares" in printed
    assert "run.log" in printed
    assert "result" not in first
    log = tmp_path / "hpcqc-runs" / "first" / "run.log"
    written = log.read_text()
    log.write_text("")
    assert "hpcqc runs first" in hpcqc("logs", "first").out
    log.write_text(written)
    logged = hpcqc("logs", "first", "--json").document
    assert list(logged) == [str(tmp_path / "hpcqc-runs" / "first" / "run.log")]
    assert list(follow_logs("first")) == []  # it has ended
    before = (tmp_path / "hpcqc-runs" / "first" / "run.json").read_bytes()
    cancelled = hpcqc("cancel", "first", "--json").document
    assert cancelled["before"] == "completed"
    assert not cancelled["process_ended"]
    assert (tmp_path / "hpcqc-runs" / "first" / "run.json").read_bytes() == before
    assert run_view("first").state == "completed"


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_running_run_is_followed_and_cancelled(hpcqc, tmp_path) -> None:
    process = begin(tmp_path, "r1")
    children = psutil.Process(process.pid).children(recursive=True)
    view = run_view("r1")
    assert (view.state, view.process, view.host) == ("running", process.pid, os.uname().nodename)
    assert view.stages_done == 1
    until(lambda: any("the flow has begun" in text for text in run_logs("r1").values()))
    cancelled = hpcqc("cancel", "r1", "--json").document
    assert (cancelled["before"], cancelled["process_ended"]) == ("running", True)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143
    assert not psutil.wait_procs(children, timeout=PATIENCE_S)[1]
    assert states("r1") == ["cancelled"]
    assert run_view("r1").state == "cancelled"
    record = read_record(tmp_path / "hpcqc-runs" / "r1")
    assert record.status == "interrupted"
    assert [attempt.reason for attempt in record.attempts] == ["cancelled"]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_what_a_killed_run_has_left_is_cancelled(hpcqc, tmp_path) -> None:
    process = begin(tmp_path, "r1")
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert run_view("r1").state == "killed"
    assert states("r1") == ["running"]
    cancelled = hpcqc("cancel", "r1", "--json").document
    assert cancelled == {
        "id": "r1",
        "before": "killed",
        "process_ended": False,
        "quantum_jobs": 1,
        "slurm_jobs": [],
    }
    assert states("r1") == ["cancelled"]
    assert not psutil.wait_procs(children, timeout=PATIENCE_S)[1]
    record = read_record(tmp_path / "hpcqc-runs" / "r1")
    assert (record.status, record.error) == ("interrupted", "interrupted: cancelled")
    assert [job.state for job in record.jobs] == ["cancelled"]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_second_ctrl_c_is_recorded_with_what_it_left(hpcqc, tmp_path) -> None:
    process = begin(tmp_path, "r1", ("-c", IMPATIENT))
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not psutil.wait_procs(children, timeout=PATIENCE_S)[1]
    view = run_view("r1")
    assert view.state == "interrupted"
    assert "hpcqc cancel r1" in str(view.reason)
    assert view.quantum_jobs == {"running": 1}
    record = read_record(tmp_path / "hpcqc-runs" / "r1")
    assert [(a.status, a.reason) for a in record.attempts] == [("interrupted", "user")]
    cancelled = hpcqc("cancel", "r1", "--json").document
    assert (cancelled["before"], cancelled["quantum_jobs"]) == ("interrupted", 1)
    (state,) = states("r1")
    assert state in ("cancelled", "failed")  # its simulation was killed with the process
    assert run_view("r1").quantum_jobs == {state: 1}
    record = read_record(tmp_path / "hpcqc-runs" / "r1")
    assert [job.state for job in record.jobs] == [state]
    assert [(a.status, a.reason) for a in record.attempts] == [("interrupted", "user")]


def test_cancel_is_not_advised_once_it_is_done(hpcqc, tmp_path) -> None:
    site = load_site()
    error = "interrupted by the user" + advice_after_haste("r1")
    leave(site, None, record(site, [], status="interrupted", error=error), tmp_path / "r1")
    assert "hpcqc cancel r1" in hpcqc("logs", "r1").err
    assert hpcqc("cancel", "r1").code == 0
    assert hpcqc("logs", "r1").err.count("hpcqc cancel") == 0
    view = run_view("r1")
    assert (view.state, view.reason) == ("interrupted", "interrupted by the user")


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        ("interrupted", "interrupted: walltime", "interrupted: walltime"),
        ("failed", "ValueError: no", "failed: ValueError: no"),
        ("running", None, "killed"),
        ("completed", None, ""),
    ],
)
def test_logs_end_with_what_ended_the_run(hpcqc, tmp_path, status, error, said) -> None:
    site = load_site()
    leave(site, None, record(site, [], status=status, error=error), tmp_path / "r1")
    (tmp_path / "r1" / "run.log").write_text("a line\n")
    shown = hpcqc("logs", "r1")
    assert (shown.code, shown.out) == (0, "a line\n")
    assert shown.err.startswith(f"run r1 is {said}") if said else shown.err == ""


def test_runs_that_are_not_there(hpcqc) -> None:
    for verb in ("runs", "logs", "cancel"):
        said = hpcqc(verb, "nonsense")
        assert said.code == 2
        assert "nonsense" in said.paragraph


def test_the_register_finds_a_run_by_the_start_of_its_id(isolated_state, tmp_path) -> None:
    for run in ("a", "ab", "abc"):
        register(isolated_state, entry(run, tmp_path))
    found = find_registered(isolated_state, "ab")
    assert found is not None
    assert found.id == "ab"
    assert find_registered(isolated_state, "../ab") is None
    register(isolated_state, entry("b1", tmp_path, registered_at="2026-01-02T00:00:00Z"))
    register(isolated_state, entry("b2", tmp_path))
    with pytest.raises(ConfigError):
        find_registered(isolated_state, "b")
    with pytest.raises(ConfigError):
        find_registered(isolated_state, "")
    assert [run.id for run in registered_runs(isolated_state)] == ["b1", "b2", "abc", "ab", "a"]
    (isolated_state / "register" / "a.json").write_text('{"id": 3')
    assert "a" not in [run.id for run in registered_runs(isolated_state)]


def test_a_run_of_another_machine_is_not_killed_here(isolated_state, tmp_path) -> None:
    elsewhere = ProcessIdentity(pid=os.getpid(), started=0, host="elsewhere", boot="b")
    register(isolated_state, entry("far", tmp_path, process=elsewhere))
    from orchestrator.retention import hold_run

    with hold_run(isolated_state, "far"), pytest.raises(ConfigError, match="elsewhere"):
        cancel_run("far")
    assert not cancel_requested(isolated_state, "far")
    assert json.loads((isolated_state / "register" / "far.json").read_text())["id"] == "far"
