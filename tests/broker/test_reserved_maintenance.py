"""Maintenance that Slurm has reserved holds from the first quantum job of a run on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from qiskit import QuantumCircuit

from backends import registry
from backends.payloads import SamplerPayload
from orchestrator.application.jobs import JobsOfRun
from orchestrator.broker.core.grants import Grant
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.rules import Window
from orchestrator.broker.core.views import JobState
from orchestrator.broker.runtime.embedded import EmbeddedBroker
from orchestrator.broker.runtime.grant_watch import GrantState
from orchestrator.config.loading import LAPTOP, load_site
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.slurm_access import SlurmAccess
from orchestrator.slurm.errors import SlurmUnavailable
from tests.patience import PATIENCE_S, until

HOUR = timedelta(hours=1)


class Reserved:
    """A Slurm whose jobs all hold the QPU, with one reservation."""

    def __init__(self, begins_in: timedelta, *, is_silent: bool = False) -> None:
        start = datetime.now(UTC) + begins_in
        self.window = Window(start=start, end=start + 2 * HOUR, title="Slurm: pump")
        self.is_silent, self.looks = is_silent, 0

    def look(self, grants: Collection[Grant]) -> Mapping[Grant, GrantState]:
        self.looks += 1
        return dict.fromkeys(grants, GrantState(state="holds"))

    def closures(self) -> Mapping[str, tuple[Window, ...]]:
        if self.is_silent:
            raise SlurmUnavailable("scontrol did not answer")
        return {"q": (self.window,)}


@contextmanager
def embedded(folder: Path, slurm: Reserved) -> Iterator[EmbeddedBroker]:
    qpu = QpuSettings(name="q", backend="fake", slurm=SlurmAccess(gres="qpu:1"))
    broker = EmbeddedBroker(
        run="r",
        state_dir=folder,
        open_backend=lambda name: registry.create("fake", {}, state_dir=folder / name),
        qpus={"q": qpu},
        allocations=slurm,
    )
    broker.open()
    try:
        yield broker
    finally:
        broker.close()


def bell() -> SamplerPayload:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return SamplerPayload.coerce([circuit], shots=10, seed=1)


@pytest.mark.parametrize("opens_first", [False, True])
def test_nothing_starts_in_it_although_the_slurm_job_holds_the_qpu(
    tmp_path: Path, opens_first: bool
) -> None:
    slurm = Reserved(-HOUR)
    with embedded(tmp_path, slurm) as broker:
        if opens_first:
            broker.target("q")
        else:
            until(lambda: broker._running.grants.closures)
        job = broker.submit(JobRequest(run="r", qpu="q", slurm_job=7), bell())
        until(lambda: slurm.looks)
        until(lambda: any("pump" in why for why in broker.why(job).waits_for))
        assert broker.view(job).state is JobState.QUEUED
        assert broker.view(job).tasks == ()
        assert broker.reserved("q") == (slurm.window,)


@pytest.mark.parametrize(
    "slurm", [Reserved(HOUR), Reserved(-HOUR, is_silent=True)], ids=["later", "silent"]
)
def test_work_goes_on_before_it_and_where_slurm_does_not_say(
    tmp_path: Path, slurm: Reserved
) -> None:
    with embedded(tmp_path, slurm) as broker:
        job = broker.submit(JobRequest(run="r", qpu="q", slurm_job=7), bell())
        broker.result(job, PATIENCE_S)
        assert broker.view(job).state is JobState.COMPLETED


def test_a_run_that_waits_for_its_end_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with embedded(tmp_path, Reserved(-HOUR)) as broker:
        monkeypatch.setattr("orchestrator.resources.opened_broker", lambda: broker)
        until(lambda: broker.reserved("q"))
        qpus = {"q": QpuSettings(name="q", backend="fake")}
        site = load_site(LAPTOP).model_copy(update={"qpus": qpus})
        (words,) = JobsOfRun(site, "r").standstills(["q"])
        assert "pump" in words
