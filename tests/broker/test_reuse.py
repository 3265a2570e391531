"""A result is used again where everything it depends on is equal, and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from qiskit import QuantumCircuit

from backends.api import Calibration, TaskFailed
from backends.fake import create
from backends.fake.script import script_target
from backends.payloads import SamplerPayload
from backends.results import result_from_bytes
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.views import JobState, JobView
from orchestrator.broker.ledger import Ledger
from orchestrator.broker.runtime import blob_store
from orchestrator.broker.runtime.blob_store import reuse_key
from orchestrator.broker.runtime.broker import Broker
from orchestrator.broker.runtime.checked_payload import CheckedPayload
from orchestrator.broker.runtime.embedded import EmbeddedBroker
from orchestrator.broker.runtime.pacing import STANDARD_PACING, Pacing
from orchestrator.config.qpu_tables import QpuSettings
from tests.patience import PATIENCE_S

Q = QpuSettings(name="q", backend="fake")


def payload(shots: int = 40, seed: int | None = None, angle: float = 1.0) -> SamplerPayload:
    circuit = QuantumCircuit(1)
    circuit.ry(angle, 0)
    circuit.measure_all()
    return SamplerPayload.coerce([circuit], shots=shots, seed=seed)


def bits(result: Any) -> bytes:
    found: bytes = result[0].data.meas.array.tobytes()
    return found


def embedded(folder: Path, run: str, **options: object) -> EmbeddedBroker:
    return EmbeddedBroker(
        run=run,
        state_dir=folder,
        open_backend=lambda _: create(options, state_dir=folder),
        qpus={"q": Q},
    ).open()


def ask(
    broker: EmbeddedBroker, run: str, asked: SamplerPayload, *, again: bool = True
) -> tuple[JobView, bytes]:
    job = broker.submit(JobRequest(run=run, stage=None, call=0, qpu="q", may_reuse=again), asked)
    found = bits(broker.result(job, PATIENCE_S))
    return broker.view(job), found


def test_a_later_run_gets_the_very_same_counts_at_no_cost(tmp_path: Path) -> None:
    with closing(embedded(tmp_path, "one", run_s=0.01)) as broker:
        first, counts = ask(broker, "one", payload())
    assert first.source is None
    assert first.usage.shots == 40
    with closing(embedded(tmp_path, "two", run_s=0.01)) as broker:
        second, same = ask(broker, "two", payload())
    assert (second.source, second.state) == (first.id, JobState.COMPLETED)
    assert second.tasks == ()
    assert not second.usage.charges
    assert second.usage.shots == second.usage.qpu_seconds == 0
    assert same == counts, "unseeded, so by chance they would differ"
    with closing(Ledger.open(tmp_path / "ledger.sqlite")) as ledger:
        assert ledger.job(second.id).source == first.id
    with closing(embedded(tmp_path, "three")) as broker:
        third, _ = ask(broker, "three", payload())
    assert third.source == first.id, "the one that ran, not the one that reused"


def test_nothing_is_used_again_unasked(tmp_path: Path) -> None:
    with closing(embedded(tmp_path, "one")) as broker:
        ask(broker, "one", payload())
    with closing(embedded(tmp_path, "two")) as broker:
        view, _ = ask(broker, "two", payload(), again=False)
    assert view.source is None
    assert view.usage.shots == 40
    with closing(embedded(tmp_path, "three")) as broker:
        last, _ = ask(broker, "three", payload(), again=False)
    assert last.source is None


def test_one_that_did_not_ask_is_not_found(tmp_path: Path) -> None:
    with closing(embedded(tmp_path, "one")) as broker:
        ask(broker, "one", payload(), again=False)
    with closing(embedded(tmp_path, "two")) as broker:
        view, _ = ask(broker, "two", payload())
    assert view.source is None


def test_a_result_of_another_calibration_is_neither_kept_nor_found(tmp_path: Path) -> None:
    with closing(embedded(tmp_path, "one", drift_every=1)) as broker:
        first, _ = ask(broker, "one", payload())
        job = broker.submit(
            JobRequest(run="one", stage="s", call=0, qpu="q", may_reuse=True), payload()
        )
        broker.result(job, PATIENCE_S)
        assert broker.view(job).source is None, "the calibration has changed meanwhile"
    assert first.source is None


def test_a_failed_job_leaves_nothing(tmp_path: Path) -> None:
    with closing(embedded(tmp_path, "one", fail=[1])) as broker:
        job = broker.submit(
            JobRequest(run="one", stage=None, call=0, qpu="q", may_reuse=True), payload()
        )
        with pytest.raises(TaskFailed):
            broker.result(job, PATIENCE_S)
    with closing(embedded(tmp_path, "two")) as broker:
        view, _ = ask(broker, "two", payload())
    assert view.source is None
    assert view.usage.shots == 40


def test_every_part_of_the_key_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    target = script_target()
    known = reuse_key(payload(seed=1), Q, target, "chem")
    assert known == reuse_key(payload(seed=1), Q, target, "chem")
    quick, slow = (QpuSettings(name="q", backend="aer", options=o) for o in ({}, {"time_scale": 1}))
    keys = {reuse_key(payload(seed=1), settings, target, "chem") for settings in (quick, slow)}
    assert len(keys) == 1, "a clock changes no result"
    recalibrated = replace(
        target, calibration=Calibration(id="later", taken_at=datetime(2026, 1, 2, tzinfo=UTC))
    )
    others = {
        "circuit": reuse_key(payload(seed=1, angle=1.1), Q, target, "chem"),
        "shots": reuse_key(payload(41, seed=1), Q, target, "chem"),
        "seed": reuse_key(payload(seed=2), Q, target, "chem"),
        "no seed": reuse_key(payload(), Q, target, "chem"),
        "calibration": reuse_key(payload(seed=1), Q, recalibrated, "chem"),
        "project": reuse_key(payload(seed=1), Q, target, "qml"),
        "QPU": reuse_key(payload(seed=1), Q.model_copy(update={"name": "p"}), target, "chem"),
        "backend": reuse_key(
            payload(seed=1), Q.model_copy(update={"backend": "aer"}), target, "chem"
        ),
        "method": reuse_key(
            payload(seed=1),
            Q.model_copy(update={"options": {"method": "statevector"}}),
            target,
            "chem",
        ),
        "noise": reuse_key(
            payload(seed=1), Q.model_copy(update={"options": {"profile": "helmi"}}), target, "chem"
        ),
    }
    monkeypatch.setattr(blob_store, "versions_of", lambda *_: ("another",))
    others["version"] = reuse_key(payload(seed=1), Q, target, "chem")
    assert known not in others.values()
    assert len(set(others.values())) == len(others)


def at_a_site(
    where: Path,
    work: Callable[[Broker], Awaitable[Any]],
    pacing: Pacing = STANDARD_PACING,
) -> Any:
    """Let a service live as long as some work takes; ``chem`` and ``qml`` share results."""

    async def live() -> Any:
        with closing(Ledger.open(where)) as ledger:
            site = Broker(
                qpus={"q": Q},
                ledger=ledger,
                clock=lambda: datetime.now(UTC),
                open_backend=lambda _: create({}, state_dir=Path()),
                sharing=frozenset({"chem", "qml"}),
                pacing=pacing,
            )
            await site.open()
            try:
                return await work(site)
            finally:
                await site.close()

    return asyncio.run(live())


async def paid_by(site: Broker, project: str, stage: str) -> JobView:
    call = JobRequest(run="r", stage=stage, qpu="q", project=project, may_reuse=True)
    view, _ = await site.submit(call, "eve", CheckedPayload.of(payload()))
    return await site.wait(view.id, 20)


def test_projects_share_results_only_if_all_of_them_do(tmp_path: Path) -> None:
    async def work(site: Broker) -> None:
        chem = await paid_by(site, "chem", "a")
        optics = await paid_by(site, "optics", "a")
        assert chem.source is None
        assert optics.source is None
        assert (await paid_by(site, "qml", "a")).source == chem.id
        assert (await paid_by(site, "optics", "b")).source == optics.id
        assert (await paid_by(site, "secret", "a")).source is None
        uses = await site.uses()
        assert uses["qml"].usage.shots == 0
        assert uses["qml"].jobs == 1
        assert uses["optics"].usage.shots == 40
        assert uses["optics"].jobs == 2

    at_a_site(tmp_path / "ledger.sqlite", work)


def test_the_result_outlives_its_source_and_the_service(tmp_path: Path) -> None:
    where, forgetful = tmp_path / "ledger.sqlite", Pacing(ended_s=0.0, checkpoint_events=1)

    async def first(site: Broker) -> JobView:
        return await paid_by(site, "chem", "a")

    async def second(site: Broker) -> tuple[JobView, bytes]:
        assert not site.events.state.jobs, "the source is forgotten"
        view = await paid_by(site, "chem", "b")
        return view, bits(result_from_bytes(await site.result(view.id)).native)

    source = at_a_site(where, first, forgetful)
    again, _ = at_a_site(where, second, forgetful)
    assert again.source == source.id
