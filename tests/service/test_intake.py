"""Payloads from strangers: read where they can do no harm, in turns, within limits."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from qiskit import QuantumCircuit

from backends.api import PayloadRejected, QpuUnavailable
from backends.fake.script import script_target
from backends.frames import pack, unpack
from backends.payloads import EstimatorPayload, PayloadLimits, SamplerPayload
from backends.shapes import ItemShape
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.codec import to_json
from orchestrator.broker.core.prediction import Load
from orchestrator.broker.core.state import BrokerState
from orchestrator.broker.runtime.checked_payload import CheckedPayload
from orchestrator.broker.runtime.intake import Intake, IntakeLimits
from orchestrator.broker.runtime.intake import pool as pool_module
from orchestrator.broker.runtime.site_rules import qpu_rules
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.identity import JobId
from tests.errors import naming
from tests.service.calls import job_head
from tests.service.rooms import open_room

TARGET = script_target()


def bell(shots: int = 10) -> bytes:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return SamplerPayload.coerce([circuit], shots=shots).to_bytes()


def many_observables(count: int) -> bytes:
    """A payload whose check takes long: 0.14 s of CPU time for a hundred thousand here."""
    header, frames = unpack(EstimatorPayload.coerce([(QuantumCircuit(10), "Z" * 10)]).to_bytes())
    header["pubs"][0]["fields"]["observables"] = [{"XYZ" * 3 + "Z": 1.0}] * count
    return pack(header, frames)


@contextmanager
def running(limits: IntakeLimits) -> Iterator[Callable[[Callable[[Intake], Awaitable[Any]]], Any]]:
    def run(work: Callable[[Intake], Awaitable[Any]]) -> Any:
        async def live() -> Any:
            intake = Intake(limits)
            try:
                return await work(intake)
            finally:
                intake.close()

        return asyncio.run(live())

    yield run


def read(intake: Intake, data: bytes, user: str = "ada") -> Awaitable[CheckedPayload]:
    return intake.read(io.BytesIO(data), user, "q", TARGET)


def test_what_a_reader_answers_is_what_the_payload_is(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = SamplerPayload.coerce([QuantumCircuit(2, 2).measure_all(inplace=False)], shots=7)
    large = many_observables(40_000)
    written: list[int] = []
    chunks = pool_module._chunks

    def counted(body: Any) -> Iterator[bytes]:
        for chunk in chunks(body):
            written.append(len(chunk))
            yield chunk

    monkeypatch.setattr(pool_module, "_chunks", counted)

    async def work(intake: Intake) -> None:
        assert await read(intake, payload.to_bytes()) == CheckedPayload.of(payload)
        written.clear()
        await read(intake, large)
        assert sum(written) == len(large)
        assert max(written) <= 1 << 18, "the event loop handles a body in small pieces"

    with running(IntakeLimits()) as run:
        run(work)


def test_why_the_process_that_makes_readers_ended_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool_module, "_BOOT", "raise SystemExit('no libsdk.so.2')")

    async def work(intake: Intake) -> None:
        with pytest.raises(QpuUnavailable):
            await read(intake, bell())

    with running(IntakeLimits()) as run:
        run(work)
    assert "no libsdk.so.2" in caplog.text
    assert "exit status 1" in caplog.text


@pytest.mark.slow
def test_a_payload_that_ends_its_reader_is_refused_and_harms_nobody() -> None:
    limits = IntakeLimits(small_cpu_s=0.04, cpu_s=0.04, small_bytes=1 << 30)
    heavy = many_observables(100_000)

    async def work(intake: Intake) -> None:
        others = [asyncio.ensure_future(read(intake, bell(n), "bob")) for n in range(1, 4)]
        with pytest.raises(PayloadRejected, match=naming("0.04 s", "1024 MiB")):
            await read(intake, heavy, "eve")
        shots = [(await other).pubs[0].shots for other in others]
        assert shots == [1, 2, 3]
        assert (await read(intake, bell(5), "bob")).pubs[0].shots == 5
        assert (await read(intake, bell(6), "eve")).pubs[0].shots == 6

    with running(limits) as run:
        run(work)


@pytest.mark.slow
def test_a_payload_that_takes_too_much_memory_is_refused() -> None:
    limits = IntakeLimits(memory_bytes=8 << 20, small_bytes=0)

    async def work(intake: Intake) -> None:
        with pytest.raises(PayloadRejected):
            await read(intake, many_observables(80_000))
        assert (await read(intake, bell())).kind == "sampler"

    with running(limits) as run:
        run(work)


@pytest.mark.slow
def test_what_takes_a_shared_reader_s_memory_is_read_by_one_of_its_own() -> None:
    limits = IntakeLimits(small_memory_bytes=8 << 20, small_cpu_s=60.0, small_bytes=1 << 30)

    async def work(intake: Intake) -> None:
        assert (await read(intake, many_observables(40_000))).kind == "estimator"
        assert (await read(intake, bell(), "bob")).kind == "sampler"

    with running(limits) as run:
        run(work)


@pytest.mark.slow
def test_readers_come_back_when_the_process_that_makes_them_was_killed() -> None:
    async def work(intake: Intake) -> None:
        await read(intake, bell())
        assert intake._forks is not None
        intake._forks.kill()
        intake._forks.wait()
        assert intake._shared is not None
        intake._shared.close()  # as when it is killed too
        assert (await read(intake, bell(3))).pubs[0].shots == 3

    with running(IntakeLimits()) as run:
        run(work)


def kill_readers(intake: Intake, *, whole_group: bool) -> int:
    """Kill the readers that there are now, perhaps with the process that forks them."""
    assert intake._forks is not None
    readers: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        readers = psutil.Process(intake._forks.pid).children()
        if readers and whole_group:
            os.killpg(intake._forks.pid, signal.SIGKILL)
        for reader in readers:
            reader.kill()
    return len(readers)


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [False, True])
@pytest.mark.parametrize("times", [1, 1000])
def test_no_payload_is_blamed_for_a_reader_that_was_killed(whole_group: bool, times: int) -> None:
    async def work(intake: Intake) -> None:
        reading = asyncio.ensure_future(read(intake, many_observables(100_000)))
        killed = 0
        while not reading.done():
            await asyncio.sleep(0.01)
            if killed < times:
                killed += await asyncio.to_thread(kill_readers, intake, whole_group=whole_group)
        if times == 1:
            assert (await reading).kind == "estimator"
        else:
            with pytest.raises(QpuUnavailable):
                await reading

    with running(IntakeLimits(small_bytes=0, cpu_s=600.0)) as run:
        run(work)


def test_users_take_turns_with_heavy_payloads(monkeypatch: pytest.MonkeyPatch) -> None:
    at_work: list[str] = []
    order: list[str] = []

    async def slowly(_intake: Intake, body: Any, _size: int, _target: bytes, *, alone: bool) -> str:
        assert alone
        user = body.getvalue().decode()
        at_work.append(user)
        order.append(user)
        assert len(at_work) <= 2
        assert len(set(at_work)) == len(at_work), "a user has one at a time"
        for _ in range(3):
            await asyncio.sleep(0)
        at_work.remove(user)
        return user

    monkeypatch.setattr(Intake, "_read", slowly)

    async def work() -> None:
        intake = Intake(IntakeLimits(small_bytes=0, at_once=2))
        users = ["eve"] * 20 + ["ada", "bob"] * 2
        await asyncio.gather(*(read(intake, user.encode(), user) for user in users))
        assert not intake._per_user._users

    asyncio.run(work())
    assert {"ada", "bob"} <= set(order[:4]), "nobody waits for all of another user's payloads"


def test_the_service_itself_never_reads_a_payload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = SamplerPayload.coerce([QuantumCircuit(2, 2).measure_all(inplace=False)] * 1000, shots=1)
    small, large_bytes = bell(), large.to_bytes()
    assert len(large_bytes) > IntakeLimits().small_bytes
    with open_room(tmp_path) as room:
        room.http.post(
            "/v1/qpus/fake/drain", headers=room.headers["operator"], json={"reason": "only intake"}
        )

        def never(*_: Any, **__: Any) -> None:
            raise AssertionError("the service read a payload")

        for place in (
            "qiskit.qpy.load",
            "backends.circuits.load_qpy",
            "backends.payloads.registry.unpack",
            "backends.payloads.registry.payload_from_untrusted",
            "orchestrator.broker.runtime.blob_store.payload_from_bytes",
        ):
            monkeypatch.setattr(place, never)
        for number, data in enumerate((small, large_bytes)):
            answer = room.http.post(
                "/v1/jobs",
                asked={"run": "r", "qpu": "fake", "call": number},
                headers=room.headers["owner"],
                content=data,
            )
            assert answer.status_code == 201, answer.text
        refused = room.http.post(
            "/v1/jobs", headers=room.headers["owner"] | job_head(), content=b"HQC1 and no more"
        )
        assert refused.status_code == 422
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["error_type"] == "PayloadRejected"


@pytest.mark.parametrize("limits", [{}, {"max_circuits": 100, "max_shots": 50_000}])
@pytest.mark.parametrize(
    "shapes",
    [
        [ItemShape(points=1, shots=1000, num_qubits=2, depth=2.0)] * PayloadLimits().items,
        [ItemShape(points=10**6, shots=1000, num_qubits=2, depth=2.0)],
        [ItemShape(points=1, shots=10**9, num_qubits=2, depth=2.0)],
    ],
)
def test_the_largest_job_is_a_bounded_amount_of_work_for_the_scheduler(
    monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any], shapes: list[ItemShape]
) -> None:
    steps = 0
    plus = Load.plus

    def counted(self: Load, part: ev.Part, job: ev.JobSubmitted) -> Load:
        nonlocal steps
        steps += 1
        return plus(self, part, job)

    monkeypatch.setattr(Load, "plus", counted)
    now, state = datetime(2026, 1, 1, tzinfo=UTC), BrokerState()
    rules = qpu_rules(QpuSettings(name="q", backend="fake"), script_target(**limits), now)
    state.configure("q", rules)
    job = ev.JobSubmitted(
        job=JobId("j"),
        run="r",
        stage=None,
        call=0,
        qpu="q",
        backend="fake",
        payload_kind="sampler",
        digest="d",
        pubs=tuple(shapes),
        num_qubits=2,
        seed=1,
    )
    outcome = state.handle(job, now)
    assert outcome.refused is None
    # About 5 µs each: 50 ms are 10 000 of them.
    assert steps <= 10_000, "admission plans through too many tasks"
    assert sum(len(to_json(event)) for event in outcome.events) < 1 << 20
