"""What makes two quantum stages, or two calls, the same: the QPU and its settings count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from qiskit import QuantumCircuit

from hpcqc import Sampler, classical, open_qpu, quantum
from orchestrator import resources, runs
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.secrets import SecretRef
from orchestrator.config.site import Site
from orchestrator.identity import IdentityError
from orchestrator.runs import Run
from tests.errors import naming

QPUS: Mapping[str, QpuSettings] = {
    "one": QpuSettings(name="one", backend="fake"),
    "two": QpuSettings(name="two", backend="fake"),
}
ASKED: list[str] = []


@quantum
def asks(qpu: Any, shots: int) -> str:
    ASKED.append(qpu.name)
    return str(qpu.sampler().run([coin()], shots=shots).job_id())


@quantum(qpu="two")
def asks_two(qpu: Any) -> str:
    ASKED.append(qpu.name)
    return str(qpu.name)


@classical
def counts(value: int) -> int:
    return value


def coin() -> QuantumCircuit:
    circuit = QuantumCircuit(1)
    circuit.h(0)
    circuit.measure_all()
    return circuit


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Two scripted QPUs, whose processes need no time to start."""
    return Site(
        name="test",
        default_qpu="one",
        default_compute="local",
        qpus=QPUS,
        computes={"local": ComputeSettings(name="local", workers=1)},
        state_dir=tmp_path / "state",
        source="test",
    )


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Forget who was asked, and close what a test opened."""
    ASKED.clear()
    yield
    resources.shutdown()


def again(site: Site, qpu: str | None = None, **options: Any) -> Run:
    """Take a run up as another process would, perhaps with other settings of QPU ``one``."""
    resources.shutdown()
    qpus = {**site.qpus, "one": site.qpus["one"].model_copy(update={"options": options})}
    run = Run(id="same", site=site.model_copy(update={"qpus": qpus}), qpu=qpu)
    runs.activate(run)
    return run


@pytest.mark.usefixtures("prefect_server")
def test_a_run_that_is_given_another_qpu_asks_that_one(site: Site) -> None:
    @flow
    def both() -> tuple[str, str]:
        return asks(10), asks_two()

    again(site)
    first = both()
    again(site)
    assert both() == first
    assert ASKED == ["one", "two"]
    again(site, qpu="two")
    second = both()
    assert ASKED == ["one", "two", "two"]  # the stage that pins its QPU is found finished
    assert second[0] != first[0]
    again(site, queue_s=0.001)
    assert both()[0] not in (first[0], second[0])
    assert ASKED == ["one", "two", "two", "one"]


@pytest.mark.usefixtures("prefect_server")
def test_a_classical_stage_is_found_finished_whatever_the_qpu_is(site: Site) -> None:
    @flow
    def counting() -> int:
        return counts(5)

    keys = []
    for qpu in (None, "two"):
        run = again(site, qpu=qpu)
        assert counting() == 5
        keys.append(run.spans()[-1].key)
    assert keys[0] == keys[1]
    assert run.spans()[-1].state == "cached"


def test_calls_outside_stages_are_the_same_job_only_under_the_same_settings(site: Site) -> None:
    def job(**options: Any) -> str:
        again(site, **options)
        return str(Sampler("one").run([coin()], shots=10).job_id())

    first = job()
    assert job() == first
    assert job(queue_s=0.001) != first


def test_a_stage_shows_its_plain_key_with_the_jobs_it_sent_to_its_own_qpu(site: Site) -> None:
    run = again(site)

    @quantum
    def sends(qpu: Any) -> list[str | None]:
        jobs = [sampler.run([coin()]) for sampler in (qpu.sampler(), Sampler(), Sampler("two"))]
        return [job.view().stage for job in jobs]

    own, default, other = sends.fn()
    (span,) = run.spans()
    assert own == default == span.key
    assert other == f"{span.key}@{run.qpu_identity('two')}"


def test_a_secret_counts_by_where_it_is_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    identities = set()
    for value in ("first", "second"):
        monkeypatch.setenv("ONE_TOKEN", value)
        run = again(site, token=SecretRef(source="env", where="ONE_TOKEN"))
        identities.add(run.qpu_identity("one"))
    assert len(identities) == 1
    run = again(site, token=SecretRef(source="env", where="TWO_TOKEN"))
    assert run.qpu_identity("one") not in identities
    assert run.qpu_identity("nowhere") == "nowhere"


@pytest.mark.parametrize("run_id", ["service", "same~9f86d081884c7d65-0", "a/b"])
def test_no_run_takes_a_scope_of_another_run_or_of_a_service(site: Site, run_id: str) -> None:
    with pytest.raises(IdentityError, match=naming("run id", run_id)):
        Run(id=run_id, site=site)


@pytest.mark.usefixtures("prefect_server")
def test_a_retried_stage_meets_its_jobs_on_every_qpu(site: Site) -> None:
    again(site)
    seen: list[list[str]] = []

    @quantum(retries=1)
    def sends(qpu: Any) -> None:
        samplers = (qpu.sampler(), Sampler("two"), open_qpu("two").sampler())
        seen.append([str(sampler.run([coin()]).job_id()) for sampler in samplers])
        if len(seen) == 1:
            raise RuntimeError("once more")

    @flow
    def stubborn() -> None:
        sends()

    stubborn()
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 3
