"""What runs store goes by age and by size, and never while a process works on it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest

from orchestrator import retention
from orchestrator.broker.runtime import embedded
from orchestrator.broker.runtime.embedded import RunBusy
from orchestrator.identity import lock_file_name
from orchestrator.retention import hold_run, is_active, remove_stored, runs_to_remove, stored_runs
from orchestrator.runs import activate, current_run
from tests.architecture.source import ROOT
from tests.errors import naming
from tests.patience import PATIENCE_S

DAY = 86400
NOW = 100 * DAY


@pytest.fixture
def state(isolated_state) -> Path:
    """Three runs, one of whose ids begins like another's, and what belongs to no run."""
    results = isolated_state / "results"
    results.mkdir(parents=True)
    for run, age, size in (("a", 40, 100), ("a-b", 20, 200), ("c", 1, 300)):
        for number in range(2):
            path = results / f"hpcqc-{run}-0123456789abcdef-{number}"
            path.write_bytes(b"x" * (size // 2))
            os.utime(path, (NOW - age * DAY, NOW - age * DAY))
    units = isolated_state / "units" / "a" / "k-r.units"
    units.parent.mkdir(parents=True)
    units.write_bytes(b"u" * 50)
    os.utime(units, (NOW - 40 * DAY, NOW - 40 * DAY))
    (results / "5d0e2b7c").write_bytes(b"Prefect's own")
    (isolated_state / "ledger.sqlite").write_bytes(b"ledger")
    return isolated_state


def beyond(state: Path, **limits) -> list[str]:
    given = {"keep_days": None, "keep_gib": None} | limits
    return [run.id for run in runs_to_remove(stored_runs(state), NOW, **given)]


def test_runs_are_told_apart_and_counted(state) -> None:
    found = [(run.id, run.size_bytes) for run in stored_runs(state)]
    assert found == [("c", 300), ("a-b", 200), ("a", 150)]


def test_limits(state) -> None:
    assert beyond(state) == []
    assert beyond(state, keep_days=30) == ["a"]
    assert beyond(state, keep_days=0) == ["c", "a-b", "a"]
    assert beyond(state, keep_gib=460 / 2**30) == ["a-b"]
    assert beyond(state, keep_gib=0) == ["c", "a-b", "a"]


def test_only_what_a_run_stored_is_removed(state) -> None:
    (gone,) = [run for run in stored_runs(state) if run.id == "a"]
    assert remove_stored(state, gone)
    assert [run.id for run in stored_runs(state)] == ["c", "a-b"]
    assert (state / "ledger.sqlite").exists()
    assert (state / "results" / "5d0e2b7c").exists()
    assert not (state / "units" / "a").exists()


def test_a_run_in_another_process_is_not_touched(state) -> None:
    code = (
        "from pathlib import Path\nimport sys\nfrom orchestrator.retention import hold_run\n"
        "held = hold_run(Path(sys.argv[1]), 'a')\nprint('held', flush=True)\ninput()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(state)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    before = stored_runs(state)
    assert [run.id for run in before if run.active] == ["a"]
    assert beyond(state, keep_days=0) == ["c", "a-b"]
    assert not remove_stored(state, before[-1])
    process.communicate(b"\n")
    assert remove_stored(state, before[-1])


def test_what_was_stored_since_the_look_stays(state) -> None:
    seen = stored_runs(state)[-1]
    (state / "results" / "hpcqc-a-0123456789abcdef-9").write_bytes(b"new")
    assert not remove_stored(state, seen)


def test_a_removed_run_can_begin_again(state) -> None:
    hold_run(state, "a").close()
    assert remove_stored(state, stored_runs(state)[-1])
    with hold_run(state, "a"):
        assert (state / "active" / "a.lock").exists()


def test_a_script_holds_the_run_that_it_names(state, monkeypatch) -> None:
    monkeypatch.setenv("HPCQC_RUN_ID", "a")
    assert current_run().id == "a"
    assert [run.id for run in stored_runs(state) if run.active] == ["a"]
    activate(None)
    assert not any(run.active for run in stored_runs(state))


def test_a_look_at_a_run_does_not_keep_it_from_starting(state, monkeypatch) -> None:
    embedded._lock_run(state, "a").close()  # it ran before
    looked, tried = threading.Event(), threading.Event()

    def start() -> IO[str]:
        assert looked.wait(PATIENCE_S)
        try:
            return embedded._lock_run(state, "a")
        finally:
            tried.set()

    def flock(file: IO[str], mode: int) -> None:
        fcntl.flock(file, mode)
        if Path(file.name).parent.name == "runs":
            looked.set()
            assert tried.wait(PATIENCE_S)  # while the look goes on

    def sleep(_seconds: float) -> None:
        tried.set()

    monkeypatch.setattr(embedded, "time", SimpleNamespace(sleep=sleep))
    constants = {name: getattr(fcntl, name) for name in ("LOCK_EX", "LOCK_SH", "LOCK_NB")}
    monkeypatch.setattr(retention, "fcntl", SimpleNamespace(flock=flock, **constants))
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(start)
        assert not any(run.active for run in stored_runs(state) if run.id == "a")
        with starting.result(PATIENCE_S):
            monkeypatch.setattr(retention, "fcntl", fcntl)
            assert [run.id for run in stored_runs(state) if run.active] == ["a"]
            with pytest.raises(RunBusy, match=naming("a", os.getpid())):
                embedded._lock_run(state, "a")


def test_two_looks_at_once_do_not_see_each_other(state, monkeypatch) -> None:
    hold_run(state, "old").close()
    with (state / "active" / lock_file_name("old")).open("r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        monkeypatch.setattr("orchestrator.retention.time.sleep", lambda _s: other.close())
        assert not is_active(state, "old")


@pytest.mark.parametrize("kind", ["programs", "federations"])
def test_what_a_run_left_in_a_folder_of_its_own_goes_with_it(isolated_state, kind) -> None:
    output = isolated_state / kind / "ended" / "inner" / "9f-0.0.out"
    output.parent.mkdir(parents=True)
    output.write_bytes(b"o" * 10)
    (run,) = stored_runs(isolated_state)
    assert (run.id, run.size_bytes) == ("ended", 10)
    assert remove_stored(isolated_state, run)
    assert list((isolated_state / kind).iterdir()) == []


def test_the_files_of_slurm_jobs_go_with_their_run(isolated_state) -> None:
    output = isolated_state / "slurm" / "ended" / "driver.out"
    output.parent.mkdir(parents=True)
    output.write_bytes(b"o" * 10)
    (run,) = stored_runs(isolated_state)
    assert (run.id, run.size_bytes) == ("ended", 10)
    assert remove_stored(isolated_state, run)
    assert list((isolated_state / "slurm").iterdir()) == []
