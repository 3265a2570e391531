"""What is left of a job goes to another QPU where its stage allows that, and each number says so."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from qiskit import QuantumCircuit

from backends import registry
from backends.api import Backend, TaskFailed
from backends.payloads import AnnealingPayload, SamplerPayload
from backends.quadratic_models import BinaryQuadraticModel
from backends.results import result_from_bytes
from orchestrator.broker.client.protocol import DataRefused
from orchestrator.broker.core.budgets import statement
from orchestrator.broker.core.views import JobState
from orchestrator.broker.ledger import Ledger
from orchestrator.broker.runtime.broker import Broker
from orchestrator.broker.runtime.checked_payload import CheckedPayload
from orchestrator.provenance.record import recorded_job, usage_of
from orchestrator.provenance.report import ran_on
from tests.broker.labelled_lab import Lab, request
from tests.patience import PATIENCE_S

# The QPU runs one slice of ten shots; the next one fails.
_FAILS = {"home": {"max_shots": 10, "fail": [2]}}


def payload(shots: int = 35) -> SamplerPayload:
    circuit = QuantumCircuit(1)
    circuit.h(0)
    circuit.measure_all()
    return SamplerPayload.coerce([circuit], shots=shots)


async def hand_in(broker: Broker, **options: Any) -> str:
    asked = request("home", options.pop("labels", ()), **options)
    target = await broker.target("home")
    view, _ = await broker.submit(asked, "ada", CheckedPayload.of(payload(), target))
    return view.id


def test_a_job_that_was_sent_in_the_place_of_another_qpu_says_so_and_keeps_its_place(
    tmp_path: Path,
) -> None:
    lab = Lab(tmp_path, scripts=_FAILS)
    options = {"in_place_of": "abroad", "in_place_for": "abroad cannot be reached"}

    async def check() -> None:
        async with lab.broker({}) as broker:
            job = await hand_in(broker, **options)
            seen = await broker.wait(job, PATIENCE_S)
            assert (seen.state, seen.qpu, seen.failover) == (JobState.FAILED, "abroad", "home")
        async with lab.broker({}) as broker:  # asked for again, at a broker that reads the ledger
            assert await hand_in(broker, **options) == job
            seen = await broker.wait(job, PATIENCE_S)
            assert (seen.qpu, seen.failover) == ("abroad", "home")
            assert seen.failover_reason == "abroad cannot be reached"
            assert {task.qpu for task in seen.tasks} == {"home"}

    asyncio.run(check())


def test_the_slices_that_are_left_run_elsewhere_and_every_number_says_where(tmp_path: Path) -> None:
    lab = Lab(tmp_path, scripts=_FAILS)

    async def check() -> None:
        async with lab.broker({}) as broker:
            job = await hand_in(broker, failover="cloud")
            seen = await broker.wait(job, PATIENCE_S)
            assert (seen.state, seen.qpu, seen.failover) == (JobState.COMPLETED, "home", "cloud")
            assert "TaskFailed" in seen.failover_reason
            ran = [(task.qpu, task.shots, str(task.state)) for task in seen.tasks]
            assert ran == [
                ("home", 10, "completed"),
                ("home", 10, "failed"),
                ("cloud", 25, "completed"),
            ]
            native = result_from_bytes(await broker.result(job)).native
            assert sum(native[0].data.meas.get_counts().values()) == 35
            assert native[0].metadata["qpus"] == {"home": 10, "cloud": 25}
            assert native.metadata["failover"]["to"] == "cloud"
            recorded = recorded_job(seen)
            assert [task.qpu for task in recorded.tasks] == ["home", "home", "cloud"]
            assert "25 shots on cloud" in ran_on(recorded)
            assert {name: used.shots for name, used in usage_of([seen]).per_qpu.items()} == {
                "home": 10,
                "cloud": 25,
            }
            month = f"{seen.submitted_at:%Y-%m}"
            shots = {line.qpu: line.shots for line in statement([seen], [], month)}
            assert shots == {"home": 10, "cloud": 25}
        with closing(Ledger.open(tmp_path / "ledger.sqlite")) as ledger:
            assert ledger.job(job) == seen, "replayed"

    asyncio.run(check())


class Annealers(Lab):
    """Annealers, of which the first one fails."""

    def open_backend(self, qpu: str) -> Backend:
        made = registry.create("annealing", {"sweeps": 10}, state_dir=self.folder)
        if qpu == "home":
            made.result = Mock(side_effect=TaskFailed("it is broken"))  # type: ignore[method-assign]
        return made


def test_results_that_have_no_metadata_move_too(tmp_path: Path) -> None:
    pytest.importorskip("dwave.samplers")
    models = AnnealingPayload.coerce([BinaryQuadraticModel.of([-1.0, 1.0])], reads=5)

    async def check() -> None:
        async with Annealers(tmp_path).broker({}) as broker:
            checked = CheckedPayload.of(models, await broker.target("home"))
            view, _ = await broker.submit(request("home", failover="cloud"), "ada", checked)
            seen = await broker.wait(view.id, PATIENCE_S)
            assert (seen.state, seen.failover) == (JobState.COMPLETED, "cloud")
            (found,) = result_from_bytes(await broker.result(view.id)).native
            assert found.occurrences.sum() == 5

    asyncio.run(check())


def test_without_leave_the_job_fails(tmp_path: Path) -> None:
    lab = Lab(tmp_path, scripts=_FAILS)

    async def check() -> None:
        async with lab.broker({}) as broker:
            seen = await broker.wait(await hand_in(broker), PATIENCE_S)
            assert (seen.state, seen.failover) == (JobState.FAILED, "")
            assert {task.qpu for task in seen.tasks} == {"home"}

    asyncio.run(check())


def test_a_drained_qpu_is_left_at_once(tmp_path: Path) -> None:
    lab = Lab(tmp_path)

    async def check() -> None:
        async with lab.broker({}) as broker:
            await broker.drain("home", "ops", "cooling")
            late = await hand_in(broker, failover="cloud")
            assert (await broker.wait(late, PATIENCE_S)).state is JobState.COMPLETED
            await broker.resume("home", "ops")
            stays = await hand_in(broker, failover="cloud", call=1)
            assert (await broker.wait(stays, PATIENCE_S)).failover == ""
        assert [qpu for qpu, _, _ in lab.got] == ["cloud", "home"]

    asyncio.run(check())


def test_a_failover_that_takes_no_work_ends_the_job(tmp_path: Path) -> None:
    lab = Lab(tmp_path, scripts=_FAILS)

    async def check() -> None:
        async with lab.broker({}) as broker:
            await broker.drain("cloud", "ops", "cooling")
            seen = await broker.wait(await hand_in(broker, failover="cloud"), PATIENCE_S)
            assert (seen.state, seen.failover) == (JobState.FAILED, "")
            assert "TaskFailed" in str(seen.error)

    asyncio.run(check())


def test_labelled_data_fails_over_to_no_qpu_that_does_not_accept_it(tmp_path: Path) -> None:
    lab = Lab(tmp_path, scripts=_FAILS)

    async def check() -> None:
        async with lab.broker({"home": ["embargoed"]}) as broker:
            job = await hand_in(broker, failover="cloud", labels=["embargoed"])
            seen = await broker.wait(job, PATIENCE_S)
            assert (seen.state, seen.error_type) == (JobState.FAILED, DataRefused.__name__)
        assert {qpu for qpu, _, _ in lab.got} == {"home"}

    asyncio.run(check())


def test_a_job_that_is_asked_for_again_is_tried_on_its_own_qpu_first(tmp_path: Path) -> None:
    lab = Lab(tmp_path, scripts={"home": {"max_shots": 10, "fail": [2]}, "cloud": {"fail": [1]}})

    async def check() -> None:
        async with lab.broker({}) as broker:
            job = await hand_in(broker, failover="cloud")
            assert (await broker.wait(job, PATIENCE_S)).state is JobState.FAILED
            assert await hand_in(broker, failover="cloud") == job
            seen = await broker.wait(job, PATIENCE_S)
            assert (seen.state, seen.failover) == (JobState.COMPLETED, "")
            assert [task.qpu for task in seen.tasks][-1] == "home"

    asyncio.run(check())


@pytest.mark.parametrize("name", ["nowhere"])
def test_an_unknown_failover_is_refused_before_anything_is_sent(tmp_path: Path, name: str) -> None:
    lab = Lab(tmp_path)

    async def check() -> None:
        async with lab.broker({}) as broker:
            with pytest.raises(Exception, match=name):
                await hand_in(broker, failover=name)
        assert lab.got == []

    asyncio.run(check())
