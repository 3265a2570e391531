"""A disk that fills up under the ledger: the run ends with a reason and goes on when there is room."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.broker.core import events as ev
from orchestrator.broker.core.views import JobState
from orchestrator.broker.ledger import Ledger
from tests.patience import PATIENCE_S

LOOP = Path(__file__).with_name("loop.py")
ROOT = LOOP.parents[2]
# The kernel refuses to let any file of the process grow beyond this, as a full disk would.
ROOM_BYTES = 200_000


def run_loop(out: Path, room_bytes: int | None) -> subprocess.CompletedProcess[str]:
    def confine() -> None:
        if room_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, room_bytes))

    return subprocess.run(
        [sys.executable, str(LOOP), "full", str(out)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=PATIENCE_S,
        check=False,
        preexec_fn=confine,
    )


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_loses_nothing(isolated_state: Path, tmp_path: Path) -> None:
    out = tmp_path / "path.json"
    stopped = run_loop(out, ROOM_BYTES)
    assert stopped.returncode != 0
    last = stopped.stderr.strip().splitlines()[-1]
    assert "LedgerUnwritable" in last
    assert "cannot be written" in last
    assert "run again with the same run id" in last
    assert not out.exists()
    ledger = Ledger.open(isolated_state / "ledger.sqlite")
    before = ledger.jobs("full")
    ledger.close()
    assert 0 < len(before) < 25

    done = run_loop(out, None)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(out.read_text())) == 25
    ledger = Ledger.open(isolated_state / "ledger.sqlite")
    jobs = ledger.jobs("full")
    starts = [e.tag for e, _ in ledger.events("full") if isinstance(e, ev.TaskStarted)]
    ledger.close()
    assert len(jobs) == 25
    assert all(job.state is JobState.COMPLETED for job in jobs)
    assert len(starts) == len(set(starts))
    assert all(sum(task.starts for task in job.tasks) == 1 for job in jobs)
