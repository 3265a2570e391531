"""`hpcqc.run_flow`: what a script or a notebook gets of a run, also when it fails or is stopped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest
from prefect import flow, task

import hpcqc
from backends.api import TaskCancelled
from orchestrator import runs
from orchestrator.config.loading import load_site
from tests.errors import naming

FAKE = '[site]\ndefault_qpu = "f"\n[qpu.f]\nbackend = "fake"\n'


@flow
def add(a: int, b: int = 1) -> int:
    return a + b


@flow
def divide(by: int) -> float:
    return 1 / by


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("prefect_server")
def test_a_flow_runs_inside_a_running_event_loop(here: Path) -> None:
    async def cell() -> hpcqc.RunResult:
        return hpcqc.run_flow(add, {"a": 2}, run_id="sum")

    result = asyncio.run(cell())
    assert (result.id, result.status, result.value, result.error) == ("sum", "completed", 3, None)
    assert result.folder == here / "hpcqc-runs" / "sum"
    assert result.record.parameters == {"a": 2}
    assert json.loads((result.folder / "run.json").read_text())["status"] == "completed"
    assert (result.folder / "report.html").exists()


@pytest.mark.usefixtures("prefect_server")
def test_a_run_id_given_again_continues_the_run() -> None:
    assert hpcqc.run_flow(add, {"a": 2}, run_id="sum").value == 3
    again = hpcqc.run_flow(add, {"a": 2}, run_id="sum")
    assert [attempt.status for attempt in again.record.attempts] == ["completed"] * 2
    with pytest.raises(hpcqc.FolderError, match=naming("sum", "add", "divide")):
        hpcqc.run_flow(divide, {"by": 1}, run_id="sum")


@pytest.mark.usefixtures("prefect_server")
def test_a_flow_that_fails_raises_its_error_and_says_where_its_record_is(here: Path) -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        hpcqc.run_flow(divide, {"by": 0}, run_id="bad")
    (note,) = raised.value.__notes__
    assert str(here / "hpcqc-runs" / "bad") in note
    assert json.loads((here / "hpcqc-runs/bad/run.json").read_text())["status"] == "failed"


@pytest.mark.usefixtures("prefect_server")
def test_a_flow_that_fails_is_a_result_where_that_is_wanted() -> None:
    result = hpcqc.run_flow(divide, {"by": 0}, check=False)
    assert (result.status, result.value) == ("failed", None)
    assert isinstance(result.error, ZeroDivisionError)
    assert result.record.error == "ZeroDivisionError: division by zero"
    assert result.place is not None
    assert result.place.startswith("test_run_flow.py:")


@pytest.mark.parametrize(
    ("parameters", "words"),
    [({"a": 1, "c": 2}, naming("c")), ({}, naming("a"))],
)
def test_unknown_and_missing_parameters_start_nothing(
    here: Path, parameters: dict[str, int], words: str
) -> None:
    with pytest.raises(hpcqc.ParameterError, match=words):
        hpcqc.run_flow(add, parameters)
    assert not (here / "hpcqc-runs").exists()


@pytest.mark.parametrize("thing", [add.fn, 3, "none.py:flow"])
def test_what_is_not_a_flow_is_refused(thing: object) -> None:
    with pytest.raises(hpcqc.TargetError):
        hpcqc.run_flow(thing)  # type: ignore[arg-type]


@pytest.mark.usefixtures("prefect_server")
def test_an_interrupt_ends_the_run_and_not_the_process(here: Path) -> None:
    seen: list[str] = []

    @task
    def wait() -> None:
        time.sleep(0.01)

    @flow
    def endless() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            while True:
                try:
                    wait()
                except Exception as error:  # noqa: BLE001 - as careless code does
                    seen.append(str(error))
        finally:
            seen.append("ended")

    with pytest.raises(KeyboardInterrupt):
        hpcqc.run_flow(endless, run_id="stopped")
    assert seen[-1] == "ended"
    record = json.loads((here / "hpcqc-runs/stopped/run.json").read_text())
    assert record["status"] == "interrupted"
    log = (here / "hpcqc-runs/stopped/run.log").read_text()
    assert "SIGINT" in log
    assert "interrupted by the user" in log
    assert "Traceback" not in log
    assert hpcqc.run_flow(add, {"a": 1}).value == 2


@pytest.mark.usefixtures("prefect_server")
def test_quantum_jobs_of_a_run_are_there_afterwards(here: Path) -> None:
    (here / "hpcqc.toml").write_text(FAKE)
    from qiskit import QuantumCircuit

    @hpcqc.quantum
    def bell(qpu: hpcqc.Qpu) -> int:
        circuit = QuantumCircuit(2)
        circuit.h(0)
        circuit.cx(0, 1)
        circuit.measure_all()
        (result,) = qpu.sampler().run([circuit], shots=10).result()
        return result.data.meas.num_shots

    @flow(name="pairs")
    def pairs_at_once() -> int:
        return bell()

    async def cell() -> hpcqc.RunResult:
        return hpcqc.run_flow(pairs_at_once, site="hpcqc.toml")

    result = asyncio.run(cell())
    assert result.value == 10
    (job,) = hpcqc.jobs(result.id, site="hpcqc.toml")
    assert job.id == result.record.jobs[0].id
    assert job.flow == "pairs"
    (reason,) = hpcqc.why(job, site="hpcqc.toml").tasks
    assert reason.text == "nobody else waited"


@pytest.mark.usefixtures("prefect_server")
def test_one_run_at_a_time() -> None:
    @flow
    def outer() -> None:
        hpcqc.run_flow(add, {"a": 1})

    with pytest.raises(hpcqc.RunBusy, match="running"):
        hpcqc.run_flow(outer)


@pytest.mark.usefixtures("prefect_server")
def test_the_environment_is_afterwards_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    @flow
    def look() -> None:
        os.environ["HPCQC_QPU"] = "vlq"
        del os.environ["PREFECT_API_URL"]

    before = {name: text for name, text in os.environ.items() if name != "HPCQC_QPU"}
    hpcqc.run_flow(look)
    after = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_LOGGING")}
    assert after == {k: v for k, v in before.items() if not k.startswith("PREFECT_LOGGING")}


@pytest.mark.usefixtures("prefect_server")
def test_a_budget_that_limits_nothing_is_a_warning() -> None:
    with pytest.warns(UserWarning, match=naming("qpu-s")) as seen:
        hpcqc.run_flow(add, {"a": 1}, qpu="vlq", budgets={"qpu-s": 5.0})
    assert seen[0].filename == __file__
    with pytest.raises(hpcqc.ConfigError, match=naming("qpu-s", "-1.0")):
        hpcqc.run_flow(add, {"a": 1}, budgets={"qpu-s": -1.0})


def test_nothing_is_started_for_a_run_that_has_ended() -> None:
    import contextvars

    context = contextvars.copy_context()
    run = runs.Run(id="r", site=load_site())
    context.run(runs.bind, run)
    runs.activate(run)
    assert context.run(runs.current_run) is run
    runs.activate(None)
    with pytest.raises(TaskCancelled, match=naming("r", "ended")):
        context.run(runs.current_run)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_an_estimate_is_typed(here: Path) -> None:
    from qiskit import QuantumCircuit

    @hpcqc.quantum
    def sampled(qpu: hpcqc.Qpu, shots: int) -> None:
        circuit = QuantumCircuit(1, 1)
        circuit.measure(0, 0)
        qpu.sampler(seed=1).run([circuit], shots=shots).result()

    @flow
    def many(calls: int = 2) -> None:
        for _ in range(calls):
            sampled(100)

    found = hpcqc.estimate(many, {"calls": 3}, qpu="helmi")
    (qpu,) = found.qpus
    assert (qpu.qpu, qpu.profile, qpu.jobs, qpu.shots) == ("helmi", "helmi", 3, 300)
    assert qpu.charges == {"qpu-s": pytest.approx(qpu.qpu_seconds)}
    assert qpu.wait.jobs_ahead == 0
    assert [(stage.name, stage.runs) for stage in found.stages] == [("sampled", 3)]
    assert not list(here.iterdir())
    with pytest.raises(hpcqc.DryRunFailed, match="division by zero"):
        hpcqc.estimate(divide, {"by": 0})
