"""In the end of a run no call waits for a controller that is away for as long as it would."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.slurm.client import Slurm
from orchestrator.slurm.errors import SlurmUnavailable

AWAY = """#!/bin/sh
echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2
exit 1
"""


class Clock:
    """Time that passes in pauses alone. hurry_at: when the run ends."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slurm: Slurm | None = None
        self.hurry_at: float | None = None

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        if self.hurry_at is not None and self.now_s >= self.hurry_at and self.slurm is not None:
            self.slurm.hurry(5.0)
            self.hurry_at = None

    def slurm_without_controller(self, folder: Path) -> Slurm:
        for name in ("squeue", "scancel", "sbatch"):
            program = folder / name
            program.write_text(AWAY)
            program.chmod(0o700)
        environment = {"PATH": f"{folder}:/usr/bin:/bin"}
        self.slurm = Slurm(
            patience_s=1000.0,
            environment=environment,
            sleep=self.sleep,
            clock=lambda: self.now_s,
        )
        return self.slurm


def test_a_call_that_waits_already_ends(tmp_path: Path) -> None:
    clock = Clock()
    clock.hurry_at = 20.0
    with pytest.raises(SlurmUnavailable):
        clock.slurm_without_controller(tmp_path).jobs()
    assert 20.0 + 5.0 <= clock.now_s < 20.0 + 5.0 + 4.1  # the pause that was under way


def test_all_calls_together_take_no_longer(tmp_path: Path) -> None:
    clock = Clock()
    slurm = clock.slurm_without_controller(tmp_path)
    slurm.hurry(15.0)
    for call in (lambda: slurm.cancel({7}), slurm.jobs, lambda: slurm.find("tag")):
        with pytest.raises(SlurmUnavailable):
            call()
    assert clock.now_s == pytest.approx(15.0)


def test_an_impatient_cancellation_asks_once(tmp_path: Path) -> None:
    clock = Clock()
    with pytest.raises(SlurmUnavailable):
        clock.slurm_without_controller(tmp_path).cancel({7}, patient=False)
    assert clock.now_s == 0.0
