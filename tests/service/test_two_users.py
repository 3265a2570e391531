"""Two users at one QPU: a variational loop and a long sampling job, and both get on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter

from backends.payloads import SamplerPayload
from orchestrator.broker.client.http import RemoteBroker
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.job_request import JobRequest, LeaseWish
from orchestrator.broker.core.views import JobState
from orchestrator.broker.ledger import Ledger
from orchestrator.identity import SERVICE_SCOPE
from tests.patience import PATIENCE_S, until
from tests.service.conftest import ROOT, Service, Start

pytestmark = pytest.mark.slow

# A clock twenty times as fast as the device: a step is 70 ms on it, a slice of the long job 400 ms.
CLOCK = """
[qpu.vlq]
backend = "aer"
profile = "vlq"
time_scale = 0.05
schedule = { lease = { longest_s = 1.5, idle_s = 0.3 } }
"""
STEPS = 30


def rotation(angle: float, shots: int) -> SamplerPayload:
    circuit, theta = QuantumCircuit(1), Parameter("theta")
    circuit.r(theta, 0.0, 0)
    circuit.measure_all()
    return SamplerPayload.coerce([(circuit, [angle])], shots=shots, seed=3)


def walk(client: RemoteBroker, steps: int) -> None:
    """Run a loop in which each angle follows from the counts of the step before."""
    angle = 0.3
    for number in range(steps):
        call = JobRequest(
            run="loop",
            stage=None,
            call=number,
            qpu="vlq",
            seed=3,
            lease=LeaseWish(id="loop", longest_s=60, idle_s=5),
        )
        result = client.result(client.submit(call, rotation(angle, 500)), timeout_s=PATIENCE_S)
        angle += 0.05 + result[0].data.meas.get_counts().get("1", 0) / 5000
        time.sleep(0.02)


@pytest.fixture
def site(start_service: Start) -> Service:
    service = start_service()
    service.stop()
    text = service.site.read_text()
    old = text[text.index("[qpu.vlq]") : text.index("[broker]")]
    service.site.write_text(text.replace(old, CLOCK + "\n"))
    return service.start()


def client_of(site: Service, user: str) -> tuple[RemoteBroker, str]:
    _, secret = site.tokens.add(user, "user", [f"of-{user}"], now=datetime.now(UTC))
    return RemoteBroker(site.url, token=secret).open(), secret


def test_a_loop_and_a_long_job_both_get_on(site: Service, tmp_path: Path) -> None:
    ada, _ = client_of(site, "ada")
    bob, bobs_secret = client_of(site, "bob")
    long = bob.submit(
        JobRequest(run="long", stage=None, call=0, qpu="vlq", seed=1), rotation(1.0, 400_000)
    )
    until(lambda: bob.view(long).tasks)
    looping = threading.Thread(target=walk, args=(ada, STEPS), daemon=True)
    looping.start()
    told = set()
    while looping.is_alive():
        why = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", "why", long, "--json"],
            env=os.environ
            | {
                "PYTHONPATH": str(ROOT),
                "HPCQC_BROKER_URL": site.url,
                "HPCQC_BROKER_TOKEN": bobs_secret,
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        told |= {reason[:21] for reason in json.loads(why.stdout)["waits_for"]}
    looping.join()
    assert {"the QPU is leased to ", "the QPU is busy with "} & told, told
    result = bob.result(long, timeout_s=PATIENCE_S)
    assert sum(result[0].data.meas.get_counts().values()) == 400_000
    view = bob.view(long)
    assert view.state is JobState.COMPLETED
    assert len(view.tasks) > 10
    ada.close()
    bob.close()
    assert site.stop() == 0
    _check_order(site, view.id)


def _check_order(site: Service, long: str) -> None:
    """In each lease nothing but the loop is started; the long job goes on between leases."""
    ledger = Ledger.open(site.state / "ledger.sqlite")
    leases = between = 0
    lease: ev.LeaseOpened | None = None
    for event, at in ledger.events(SERVICE_SCOPE):
        match event:
            case ev.LeaseOpened():
                lease, leases = event, leases + 1
            case ev.LeaseClosed():
                assert lease is not None
                assert event.at <= lease.until
                lease = None
            case ev.TaskPlanned() if lease is not None:
                assert event.parts[0].job != long
                assert at <= lease.until
            case ev.TaskPlanned() if event.parts[0].job == long:
                between += bool(leases)
            case _:
                pass
    ledger.close()
    assert leases > 1
    assert between > 1
