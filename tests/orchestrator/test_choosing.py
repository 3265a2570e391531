"""Stages that leave the choice of a QPU to the broker, and stages whose data is labelled."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from qiskit import QuantumCircuit

from backends import registry
from backends.circuits import FrozenCircuit
from orchestrator import resources, runs
from orchestrator.broker.client.protocol import DataRefused, NoQpuFits
from orchestrator.broker.core.choice import QpuNeeds
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.site import Site
from orchestrator.data_labels import labels_of_project
from orchestrator.primitives import Sampler
from orchestrator.provenance.record import recorded_job
from orchestrator.provenance.report import ran_on
from orchestrator.qpu import Qpu, choose_qpu, open_qpu
from orchestrator.runs import Run, on_qpu
from orchestrator.stages import classical, quantum
from tests.patience import PATIENCE_S


def fake(name: str, **options: Any) -> QpuSettings:
    return QpuSettings(name=name, backend="fake", **options)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Run]:
    """A run at a site with a QPU at home, for embargoed data too, and one abroad."""
    home = fake("home", accepts=["embargoed"], jurisdictions=["EU"], options={"num_qubits": 4})
    site = Site(
        name="test",
        default_qpu="abroad",
        default_compute="local",
        qpus={"abroad": fake("abroad"), "home": home},
        computes={"local": ComputeSettings(name="local", workers=1)},
        state_dir=tmp_path / "state",
        source="test",
    )
    run = Run(id="choosing", site=site)
    runs.activate(run)
    yield run
    resources.shutdown()
    runs.activate(None)


def flips(shots: int = 10) -> QuantumCircuit:
    circuit = QuantumCircuit(1)
    circuit.h(0)
    circuit.measure_all()
    return circuit


def total(sampler: Sampler) -> int:
    counts = sampler.run([flips()], shots=10).result()[0].data.meas.get_counts()
    return sum(counts.values())


@quantum(needs={"qubits": 3, "labels": ["embargoed"]})
def embargoed(qpu: Qpu) -> tuple[str, int]:
    return qpu.name, total(qpu.sampler())


@quantum(needs=QpuNeeds(qubits=9))
def wide(qpu: Qpu) -> str:
    return qpu.name


@quantum(qpu="any", labels=["embargoed"])
def anywhere(qpu: Qpu) -> str:
    total(qpu.sampler())
    return qpu.name


def jobs_of(run: Run) -> list[tuple[str, tuple[str, ...], str | None]]:
    found = resources.resources().broker()
    views = found._broker.events.state.jobs  # type: ignore[attr-defined]  # the run's own broker
    del run
    return [
        (
            record.submitted.qpu,
            record.submitted.labels,
            record.failure and record.failure.error_type,
        )
        for record in views.values()
    ]


def test_the_stage_gets_a_qpu_that_fits_and_its_span_says_why(lab: Run) -> None:
    assert embargoed.fn() == ("home", 10)
    (span,) = lab.spans()
    assert span.where == "home"
    assert span.choice is not None
    refused = {one["qpu"]: one.get("refused") for one in span.choice["candidates"]}
    assert refused["home"] is None
    assert "embargoed" in refused["abroad"]
    assert jobs_of(lab) == [("home", ("embargoed",), None)]


def test_any_is_chosen_anew_for_each_stage_and_by_its_labels(lab: Run) -> None:
    assert anywhere.fn() == "home"
    with on_qpu("any"):
        assert wide.fn() == "abroad"


def test_a_named_qpu_must_meet_the_needs(lab: Run) -> None:
    with on_qpu("home"), pytest.raises(NoQpuFits, match="4 qubits"):
        wide.fn()
    with on_qpu("abroad"), pytest.raises(DataRefused):
        embargoed.fn()
    assert jobs_of(lab) == []


@quantum(qpu="home", labels=["embargoed"])
def leaking(qpu: Qpu, how: str, before: Qpu) -> Any:
    """Try to send labelled data abroad by another way than the stage's QPU."""
    if how == "sampler":
        return total(Sampler("abroad"))
    if how == "qpu":
        return total(open_qpu("abroad").sampler())
    if how == "earlier":
        return total(before.sampler())
    caught: list[BaseException] = []

    def work() -> None:
        try:
            total(Sampler("abroad"))
        except BaseException as error:  # noqa: BLE001  # raised again by the stage
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    raise caught[0]


@pytest.mark.parametrize("how", ["sampler", "qpu", "earlier", "thread"])
def test_no_way_out_of_a_labelled_stage(lab: Run, how: str) -> None:
    before = open_qpu("abroad")
    with pytest.raises(DataRefused):
        leaking.fn(how, before)
    assert jobs_of(lab) == [("abroad", ("embargoed",), "DataRefused")]
    assert total(Sampler("abroad")) == 10, "outside the stage, data has no label"


@quantum
def plain(qpu: Qpu) -> int:
    return total(qpu.sampler())


@classical
def compute() -> int:
    return plain.fn()


@quantum(qpu="home", labels=["embargoed"])
def labelled_there(qpu: Qpu, way: str) -> int:
    if way == "call":
        return plain.fn()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(plain.fn).result()


@classical
def compute_labelled(way: str) -> int:
    return labelled_there.fn(way)


@flow
def inner() -> int:
    return plain()


def in_thread(work: Callable[[], Any], *, wait: bool = True) -> Any:
    """Return what a thread without a context returns, or raise what it raises."""
    future: Future[Any] = Future()

    def run() -> None:
        if not wait:
            assert ENDED.wait(PATIENCE_S)
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  # raised by who waits
            future.set_exception(error)

    threading.Thread(target=run).start()
    return future.result(PATIENCE_S) if wait else future


ENDED = threading.Event()
LEFT: list[Any] = []


def call_on_abroad() -> int:
    with on_qpu("abroad"):
        return plain()


@quantum
def allot(qpu: Qpu, number: int) -> int:
    return number + total(qpu.sampler())


@quantum
def passing(qpu: Qpu) -> Any:
    return in_thread(plain.fn)


@quantum(qpu="any")
def chosen(qpu: Qpu) -> str:
    return f"{qpu.name} {total(qpu.sampler())}"


WAYS: dict[str, Callable[[], Any]] = {
    "call": plain,
    "function": plain.fn,
    "submit": lambda: plain.submit().result(),
    "map": lambda: allot.map([1]).result(),
    "subflow": inner,
    "on_qpu": call_on_abroad,
    "thread": lambda: in_thread(plain.fn),
    "thread, call": lambda: in_thread(plain),
    "thread, subflow": lambda: in_thread(inner),
    "thread, twice": lambda: in_thread(lambda: in_thread(plain.fn)),
    "two deep": passing,
    "two deep, thread": lambda: in_thread(passing.fn),
    "any": chosen,
}


@quantum(qpu="home", labels=["embargoed"])
def calling(qpu: Qpu, how: str) -> Any:
    return WAYS[how]()


@flow
def entered(how: str) -> Any:
    return calling(how)


@pytest.mark.parametrize("how", [way for way in WAYS if way != "any"])
def test_labels_of_a_stage_hold_for_all_that_it_calls(lab: Run, how: str) -> None:
    with pytest.raises(DataRefused):
        entered(how)
    assert {(labels, error) for _, labels, error in jobs_of(lab)} == {
        (("embargoed",), "DataRefused")
    }
    assert plain.fn() == 10, "outside the stage, data has no label"


def test_a_stage_that_is_called_by_a_labelled_one_is_sent_where_its_data_may_go(lab: Run) -> None:
    assert entered("any") == "home 10"
    assert jobs_of(lab) == [("home", ("embargoed",), None)]


@quantum(qpu="home", labels=["embargoed"])
def computing(qpu: Qpu) -> int:
    return compute.fn()


@pytest.mark.parametrize("way", ["call", "thread", "stage"])
def test_labels_hold_for_what_runs_on_a_worker(lab: Run, way: str) -> None:
    with pytest.raises(DataRefused):
        computing.fn() if way == "stage" else compute_labelled.fn(way)


@quantum(qpu="home", labels=["embargoed"])
def leaving(qpu: Qpu) -> None:
    LEFT.append(in_thread(plain.fn, wait=False))


def test_labels_hold_in_a_thread_that_outlives_its_stage(lab: Run) -> None:
    ENDED.clear()
    LEFT.clear()
    leaving.fn()
    assert plain.fn() == 10
    ENDED.set()
    with pytest.raises(DataRefused):
        LEFT[0].result(PATIENCE_S)
    assert sorted(jobs_of(lab)) == [
        ("abroad", (), None),
        ("abroad", ("embargoed",), "DataRefused"),
    ]


MEANWHILE = threading.Event()


@quantum(qpu="home", labels=["embargoed"])
def waiting(qpu: Qpu) -> bool:
    return MEANWHILE.wait(PATIENCE_S)


@flow
def side_by_side() -> Any:
    one = waiting.submit()
    try:
        return plain.submit().result()
    finally:
        MEANWHILE.set()
        one.result()


def test_labels_do_not_hold_for_a_stage_beside_the_labelled_one(lab: Run) -> None:
    MEANWHILE.clear()
    context = contextvars.copy_context()
    context.run(runs.bind, lab)  # as a run does that executes a flow
    assert context.run(side_by_side) == 10
    assert jobs_of(lab) == [("abroad", (), None)]


@quantum(qpu="frail", failover="abroad")
def frail(qpu: Qpu) -> tuple[str, dict[str, int], Any]:
    result = qpu.sampler().run([flips()], shots=30).result()
    counts = result[0].data.meas.get_counts()
    return qpu.name, result[0].metadata["qpus"], sum(counts.values())


def test_a_stage_that_allows_it_goes_on_elsewhere_slice_by_slice(lab: Run) -> None:
    options = {"max_shots": 10, "fail": [2]}
    lab.site = lab.site.model_copy(
        update={"qpus": {**lab.site.qpus, "frail": fake("frail", options=options)}}
    )
    assert frail.fn() == ("frail", {"frail": 10, "abroad": 20}, 30)


@quantum(qpu="absent", failover="abroad")
def absent(qpu: Qpu) -> tuple[str, Any, Any]:
    result = qpu.sampler().run([flips()], shots=10).result()
    return qpu.name, result.metadata["failover"], result[0].metadata["qpus"]


def test_a_qpu_that_cannot_be_reached_is_replaced_and_the_span_says_so(lab: Run) -> None:
    options = {"faults": [{"call": "target", "kind": "refused"}]}
    lab.site = lab.site.model_copy(
        update={"qpus": {**lab.site.qpus, "absent": fake("absent", options=options)}}
    )
    name, failover, ran = absent.fn()
    assert (name, failover["from"], failover["to"]) == ("abroad", "absent", "abroad")
    assert "absent" in failover["reason"]
    assert ran == {"abroad": 10}
    opened = resources.resources().broker()
    (job,) = opened._broker.events.state.jobs  # type: ignore[attr-defined]
    view = opened.view(job)
    assert (view.qpu, view.failover) == ("absent", "abroad")
    assert "absent cannot be reached" in view.failover_reason
    assert [task.qpu for task in view.tasks] == ["abroad"]
    assert ran_on(recorded_job(view)) == "absent, failed over to abroad: 10 shots on abroad"
    (span,) = lab.spans()
    assert span.where == "abroad"
    assert span.choice is not None
    assert "absent" in span.choice["reason"]


def test_labels_of_the_site_hold_for_every_stage(lab: Run) -> None:
    lab.site = lab.site.model_copy(update={"labels": ["personal"]})
    with pytest.raises(DataRefused):
        total(Sampler("home"))


@pytest.mark.parametrize(
    "needs",
    [{"qubits": 0}, {"qbits": 3}, {"max_error": 2}, {"labels": ["a b"]}, {"labels": "embargoed"}],
)
def test_needs_that_cannot_be_are_refused_where_they_are_stated(needs: Any) -> None:
    with pytest.raises(ValueError, match="need"):
        quantum(needs=needs)(lambda qpu: None)


def test_a_label_is_a_name() -> None:
    for labels in ("embargoed", ["not one"]):
        with pytest.raises(ValueError, match="label"):
            quantum(labels=labels)(lambda qpu: None)


PAYERS = ("bio", "chem", "optics", "qml", "others")


def test_labels_of_a_site_file_are_added_to_and_never_taken_away(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(
        '[site]\nlabels = ["embargoed"]\njurisdiction = "EU"\n[qpu.a]\nbackend = "fake"\n'
        '[project.chem]\nlabels = ["personal"]\n'
    )
    site = load_site(file, ['site.labels=["mine"]', "site.jurisdiction=US"], environ={})
    ours = {"embargoed", "jurisdiction:EU", "jurisdiction:US", "mine"}
    assert set(site.project_labels(None)) == ours
    assert set(site.project_labels("chem")) == ours | {"personal"}
    more = load_site(file, environ={"HPCQC_LABELS": "x, y"})
    assert set(more.project_labels(None)) == {"embargoed", "jurisdiction:EU", "x", "y"}


def test_labels_of_a_project_hold_however_it_comes_to_pay(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(
        '[site]\nlabels = ["ours"]\n[batch]\naccount = "optics"\n'
        '[qpu.a]\nbackend = "fake"\nslurm = { gres = "qpu:1", account = "qml" }\n'
        '[compute.c]\nkind = "slurm"\noptions = { account = "bio" }\n'
        + "".join(f'[project.{name}]\nlabels = ["of-{name}"]\n' for name in PAYERS)
    )
    site = load_site(file, environ={})
    paid = {"of-optics", "of-qml", "of-bio", "ours"}
    assert set(site.labels_without_service(None)) == paid
    assert set(site.labels_without_service("chem")) == paid | {"of-chem"}
    assert labels_of_project("chem", site.labels_by_project) == ("of-chem", "ours")
    assert labels_of_project("unlisted", site.labels_by_project) == ("ours",)


def test_no_qpu_may_be_called_any(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text('[qpu.any]\nbackend = "fake"\n')
    with pytest.raises(ConfigError, match="any"):
        load_site(file, environ={})


def aer(name: str, **options: Any) -> QpuSettings:
    return QpuSettings(name=name, backend="aer", options={"processes": 1, **options})


def test_a_simulator_without_errors_is_known_to_have_none(lab: Run) -> None:
    qpus = {"ideal": aer("ideal"), "vlq": aer("vlq", profile="vlq", time_scale=0)}
    lab.site = lab.site.model_copy(update={"qpus": qpus, "default_qpu": "ideal"})
    found = {one.qpu: one for one in choose_qpu(QpuNeeds(max_error=0.05)).candidates}
    assert (found["ideal"].error, found["ideal"].fidelity) == (0, 1)
    assert found["ideal"].refused is None
    assert found["vlq"].error is not None
    assert found["vlq"].error > 0


@pytest.mark.parametrize(
    ("backend", "options", "ideal"),
    [
        ("aer", {}, True),
        ("aer", {"profile": "vlq"}, False),
        ("aer", {"profile": "vlq", "noiseless": True}, True),
        ("qdmi", {}, True),
        ("qdmi", {"device": "mqt.na.default"}, False),
        ("braket", {}, True),
        ("braket", {"arn": "arn:aws:braket:::device/x"}, False),
        ("fake", {}, False),
        ("nonesuch", {}, False),
    ],
)
def test_what_has_no_errors_is_told_from_the_options(
    backend: str, options: dict[str, Any], ideal: bool
) -> None:
    assert registry.is_ideal(backend, options) is ideal


def test_where_the_site_transpiles_the_fidelity_is_that_of_the_circuits(lab: Run) -> None:
    qpus = {"euro-q-exa": aer("euro-q-exa", profile="euro-q-exa", time_scale=0)}
    lab.site = lab.site.model_copy(update={"qpus": qpus, "default_qpu": "euro-q-exa"})
    found = []
    for gates in (1, 20):
        circuit = QuantumCircuit(3)
        for _ in range(gates):
            circuit.cx(0, 1)
            circuit.rx(0.3, 1)
            circuit.cx(1, 2)
        circuit.measure_all()
        (only,) = choose_qpu(circuits=[FrozenCircuit.of(circuit)]).candidates
        assert only.of_circuits
        assert only.fidelity is not None
        found.append(only.fidelity)
    assert found[0] > 0.8
    assert found[1] < found[0] - 0.1
