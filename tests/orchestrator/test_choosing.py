"""Stages that leave the choice of a QPU to the broker, and stages whose data is labelled."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qiskit import QuantumCircuit

from orchestrator import resources, runs
from orchestrator.broker.client.protocol import DataRefused, NoQpuFits
from orchestrator.broker.core.choice import QpuNeeds
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.config.site import ComputeSettings, QpuSettings, Site
from orchestrator.primitives import Qpu, Sampler, open_qpu
from orchestrator.runs import Run, on_qpu
from orchestrator.stages import quantum


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
def absent(qpu: Qpu) -> tuple[str, int]:
    return qpu.name, total(qpu.sampler())


def test_a_qpu_that_cannot_be_reached_is_replaced_and_the_span_says_so(lab: Run) -> None:
    options = {"faults": [{"call": "target", "kind": "refused"}]}
    lab.site = lab.site.model_copy(
        update={"qpus": {**lab.site.qpus, "absent": fake("absent", options=options)}}
    )
    assert absent.fn() == ("abroad", 10)
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


def test_no_qpu_may_be_called_any(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text('[qpu.any]\nbackend = "fake"\n')
    with pytest.raises(ConfigError, match="any"):
        load_site(file, environ={})
