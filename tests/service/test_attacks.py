"""A real service under payloads, bodies and floods made to end it: alive, answering, nothing lost."""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import httpx
import psutil
import pytest
from qiskit import QuantumCircuit, qpy
from qiskit.circuit import Parameter

from backends.frames import pack, unpack
from backends.payloads import EstimatorPayload, SamplerPayload
from orchestrator.broker.client.http import RemoteBroker
from orchestrator.broker.core.job_request import JobRequest
from tests.service.calls import job_head
from tests.service.conftest import Service, Start

MOST_MEMORY_BYTES = 400 << 20
_OPERATION_BYTES = 35  # of one operation in an expression's replay


def deep_expression(operations: int) -> bytes:
    """A circuit whose one angle is an expression so deep, spliced together: Qiskit cannot write it."""
    base = 100
    expression = Parameter("x")
    for _ in range(base):
        expression = (expression + 0.3).sin()
    circuit = QuantumCircuit(1, 1)
    circuit.rz(expression, 0)
    circuit.measure(0, 0)
    file = io.BytesIO()
    qpy.dump(circuit, file)
    whole, size = file.getvalue(), 2 * base * _OPERATION_BYTES
    at = whole.index(struct.pack("!QQ", 1, size))
    replay = whole[at + 16 : at + 16 + size]
    more = replay[-2 * _OPERATION_BYTES :] * (operations // 2 - base)
    (length,) = struct.unpack("!Q", whole[at - 8 : at])
    head = struct.pack("!QQQ", length + len(more), 1, size + len(more))
    return whole[: at - 8] + head + replay + more + whole[at + 16 + size :]


def sampler(circuit: bytes) -> bytes:
    one = QuantumCircuit(1, 1)
    one.measure(0, 0)
    header, frames = unpack(SamplerPayload.coerce([one], shots=1).to_bytes())
    return pack(header, [circuit, *frames[1:]])


def many_gates(count: int) -> bytes:
    circuit = QuantumCircuit(4, 4)
    for number in range(count):
        circuit.rz(0.1, number % 4)
    circuit.measure(0, 0)
    file = io.BytesIO()
    qpy.dump(circuit, file)
    return sampler(file.getvalue())


def many_observables(count: int) -> bytes:
    header, frames = unpack(EstimatorPayload.coerce([(QuantumCircuit(10), "Z" * 10)]).to_bytes())
    header["pubs"][0]["fields"]["observables"] = [{"XYZ" * 3 + "Z": 1.0}] * count
    return pack(header, frames)


def bombs() -> list[bytes]:
    deep_json = b"[" * 500_000 + b"]" * 500_000
    return [
        sampler(deep_expression(60_000)),
        sampler(deep_expression(10_000)),
        many_observables(300_000),
        many_observables(100_000),
        many_gates(490_000),
        many_gates(100_000),
        b"HQC1" + struct.pack("<IQ", 1, len(deep_json)) + deep_json,
        b"HQC1" + bytes(32 << 20),
        b"",
    ]


@contextmanager
def watched(service: Service) -> Iterator[dict[str, float]]:
    """Record the service's largest memory and how often it was healthy, while the block runs."""
    assert service.process is not None
    process, done = psutil.Process(service.process.pid), threading.Event()
    seen = {"bytes": 0.0, "healthy": 0.0}

    def look() -> None:
        transport = httpx.HTTPTransport(uds=service.socket.removeprefix("unix:"))
        with httpx.Client(transport=transport, base_url="http://localhost", timeout=120) as raw:
            while not done.wait(0.1):
                seen["healthy"] += raw.get("/health").status_code == 200
                seen["bytes"] = max(seen["bytes"], process.memory_info().rss)

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield seen
    finally:
        done.set()
        watching.join()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_service_outlives_every_payload_that_was_made_to_end_it(start_service: Start) -> None:
    service = start_service(options="run_s = 0.01")
    _, secret = service.tokens.add("eve", "user", ["evil"], now=datetime.now(UTC))
    headers = {"Authorization": f"Bearer {secret}"}
    answers: list[httpx.Response] = []

    def attack(number: int, data: bytes) -> None:
        with httpx.Client(base_url=service.url, headers=headers, timeout=600) as raw:
            answers.append(
                raw.post("/v1/jobs", content=data, headers=job_head(qpu="aer", call=number))
            )

    with closing(RemoteBroker(service.socket)) as operator:
        # What is accepted stays queued: simulating it is honest work, and not the service's.
        operator.drain("aer", "attacked")
    client = service.client()
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    payloads = bombs()
    with watched(service) as seen:
        attacks = [
            threading.Thread(target=attack, args=(number, data))
            for number, data in enumerate(payloads)
        ]
        for thread in attacks:
            thread.start()
        for number in range(20):
            call = JobRequest(run="ada", stage=None, call=number, qpu="fake")
            job = client.submit(call, SamplerPayload.coerce([circuit], shots=10, seed=number))
            assert client.result(job, timeout_s=300)[0].data.meas.num_shots == 10
        for thread in attacks:
            thread.join()
    client.close()
    print(f"\nmemory {seen['bytes'] / 2**20:.0f} MiB")
    assert service.process is not None
    assert service.process.poll() is None
    assert seen["bytes"] < MOST_MEMORY_BYTES
    assert seen["healthy"] > 0
    refused = [answer for answer in answers if answer.status_code not in (200, 201)]
    assert len(answers) == len(attacks)
    assert {answer.status_code for answer in refused} <= {413, 422}
    assert all(answer.headers["content-type"] == "application/problem+json" for answer in refused)
    assert len(refused) >= 6
    starts = service.starts()
    assert all(count == 1 for count in starts.values())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_service_lets_go_of_the_circuits_of_jobs_that_ran(start_service: Start) -> None:
    """Python counts a circuit of megabytes as a few objects, and so collected them late."""
    service = start_service()
    circuit = QuantumCircuit(2, 2)
    for number in range(60_000):
        circuit.rz(number * 1e-5, 0)
    circuit.measure(0, 0)
    payload = SamplerPayload.coerce([circuit], shots=1, seed=1)
    assert len(payload.to_bytes()) > 3 << 20
    client = service.client()
    with watched(service) as seen:
        for number in range(60):
            job = client.submit(
                JobRequest(run="large", stage=None, call=number, qpu="aer"), payload
            )
            assert client.result(job, timeout_s=300)[0].data.c.num_shots == 1
    client.close()
    print(f"\nmemory {seen['bytes'] / 2**20:.0f} MiB")
    assert seen["bytes"] < MOST_MEMORY_BYTES
