"""Runs of one id in two state folders leave each other's Slurm jobs alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.compute.reconciler import Reconciler
from orchestrator.compute.worker_jobs import JobFolder
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.slurm_access import SlurmAccess
from orchestrator.slurm import JobScript, Partition, SlurmJob, SlurmState, owner_of
from orchestrator.slurm.options import WorkerOptions
from orchestrator.slurm.qpu_jobs import QpuJobs


@dataclass
class Queue:
    """A Slurm whose jobs all run."""

    queue: dict[int, SlurmJob] = field(default_factory=dict)
    timeout_s: float = 1.0

    def jobs(self, ids: Collection[int] | None = None) -> dict[int, SlurmJob]:
        return {id_: job for id_, job in self.queue.items() if ids is None or id_ in ids}

    def partitions(self) -> dict[str, Partition]:
        return {}

    def submit(self, script: JobScript) -> int:
        id_ = len(self.queue) + 1
        self.queue[id_] = SlurmJob(
            id=id_,
            name=script.name,
            user="",
            state=SlurmState.RUNNING,
            nodes=("c1",),
            comment=script.tag,
            tres=f"gres/{script.resources.gres.replace(':', '=')}" if script.resources.gres else "",
        )
        return id_

    def hurry(self, seconds: float) -> None:
        """Answer at once, as always."""

    def cancel(self, ids: Collection[int], **_: bool) -> None:
        for id_ in ids:
            self.queue[id_] = replace(self.queue[id_], state=SlurmState.CANCELLED)

    def running(self) -> list[int]:
        return [id_ for id_, job in self.queue.items() if not job.state.is_over]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Return the folders of run r in two state folders."""
    first, second = tmp_path / "a" / "slurm" / "r", tmp_path / "b" / "slurm" / "r"
    for folder in (first, second):
        folder.mkdir(mode=0o700, parents=True)
    return first, second


def test_worker_jobs(folders: tuple[Path, Path]) -> None:
    queue = Queue()
    for id_, folder in enumerate(folders, 1):
        tag = str(owner_of(folder.parent.parent, "r").tag("worker", 0))
        queue.queue[id_] = SlurmJob(
            id=id_, name="", user="", state=SlurmState.RUNNING, nodes=("c1",), comment=tag
        )
    stub: Any = queue
    second = Reconciler(
        slurm=stub,
        folder=JobFolder(run="r", path=folders[1], options=WorkerOptions()),
        on_failure=lambda _pool, _error: None,
        on_notice=lambda _text: None,
    )
    second.start()
    second.close()
    assert queue.running() == [1]


def test_jobs_that_hold_a_qpu(folders: tuple[Path, Path]) -> None:
    queue: Any = Queue()
    qpu = QpuSettings(name="q", backend="fake", options={}, slurm=SlurmAccess(gres="qpu:1"))
    first, again, second = (
        QpuJobs("r", folder, slurm=queue) for folder in (folders[0], folders[0], folders[1])
    )
    assert first.current(qpu) == 1
    assert again.current(qpu) == 1  # as after a kill
    assert second.current(qpu) == 2
    second.close()
    assert queue.running() == [1]
    first.close()
    again.close()
