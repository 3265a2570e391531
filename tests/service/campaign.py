"""Kills services, clients and simulations at random under load, and counts starts.

``python -m tests.service.campaign --kills 300`` runs the long campaign; a slow test runs a short one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from backends.api import TaskFailed
from backends.payloads import SamplerPayload
from orchestrator.broker.client.http import Exchange, RemoteBroker
from orchestrator.broker.core.job_request import JobRequest, LeaseWish
from orchestrator.broker.core.views import JobView
from tests.patience import until
from tests.service.conftest import ROOT, SITE, Service

CLIENTS = 4
# On the last one jobs are cut into slices, share tasks, and come under leases.
QPUS = ("fake", "aer", "vlq")
SHOTS = {"fake": 200, "aer": 200, "vlq": 40_000}
UNITS = ("qpu-s", "billed-s")
BUDGET = 1e6


def loop(url: str, run: str, out: str, calls: int) -> None:
    """Be a client: each call's angle follows from the counts of the one before."""
    from qiskit import QuantumCircuit
    from qiskit.circuit import Parameter

    circuit = QuantumCircuit(2)
    theta = Parameter("theta")
    circuit.ry(theta, 0)
    circuit.cx(0, 1)
    circuit.measure_all()
    alone = QuantumCircuit(1)  # of gates that VLQ has, for nothing is transpiled here
    alone.r(theta, 0.0, 0)
    alone.measure_all()
    client = RemoteBroker(url, patience_s=120).open()
    angle, path = 0.1 * len(run), []
    for number in range(calls):
        qpu = QPUS[number % len(QPUS)]
        sent = alone if qpu == "vlq" else circuit
        payload = SamplerPayload.coerce([(sent, [angle])], shots=SHOTS[qpu], seed=11)
        wish = LeaseWish(id=run, longest_s=2.0, idle_s=0.05) if number % 2 else None
        call = JobRequest(run=run, stage=None, call=number, qpu=qpu, seed=11, lease=wish)
        while True:
            try:
                result = client.result(client.submit(call, payload))
                break
            except TaskFailed as error:  # a simulation that was killed; the same job goes on
                if not any(
                    word in str(error) for word in ("killed by signal", "died together", "code -9")
                ):
                    raise
        counts = result[0].data.meas.get_counts()
        angle += (counts.get("11", 0) + counts.get("1", 0)) / SHOTS[qpu] + 0.1
        path.append(round(angle, 6))
    Path(out).write_text(json.dumps(path))
    client.close()


@dataclass(eq=False)
class Campaign:
    """Services, several clients, and a killer; at its end it kills what still runs."""

    folder: Path
    calls: int
    chance: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    services: list[Service] = field(default_factory=list)
    clients: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Campaign:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients.values():
            client.kill()
            client.wait()
        for service in self.services:
            if service.process is not None and service.process.poll() is None:
                service.kill()

    def start_service(self, name: str) -> Service:
        state = self.folder / name
        state.mkdir()
        site = self.folder / f"{name}.toml"
        options = "run_s = 0.03, max_concurrent_tasks = 2"
        site.write_text(SITE.format(options=options, rules="", broker=""))
        service = Service(state=state, site=site).start()
        self.services.append(service)
        asking = Exchange(service.socket, token=None, patience_s=3)
        project = asking.ask("GET", "/v1/whoami").json()["projects"][0]
        asking.close()
        with closing(RemoteBroker(service.socket)) as operator:
            for unit in UNITS:
                operator.limit_project(project, unit, BUDGET)
        return service

    def client(self, service: Service, number: int) -> subprocess.Popen[bytes]:
        out = service.state / f"client{number}.json"
        arguments = [service.socket, f"run{number}", str(out), str(self.calls)]
        with (service.state / f"client{number}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.service.campaign", "client", *arguments],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )

    def run(self, service: Service, kills: int) -> list[list[float]]:
        """Let the clients end, killing so often meanwhile; return where each ended."""
        self.clients = clients = {n: self.client(service, n) for n in range(CLIENTS)}
        while clients:
            self._progress(service, self.chance.randint(0, 3))
            for number in [n for n, c in clients.items() if c.poll() == 0]:
                clients.pop(number)
            if clients and self.kills.total() < kills:
                self._kill_one(service)
            for number, process in list(clients.items()):
                if process.poll() not in (None, 0, -signal.SIGKILL):
                    log = (service.state / f"client{number}.log").read_text()
                    raise AssertionError(f"client {number} ended: {log[-2000:]}")
        return [json.loads((service.state / f"client{n}.json").read_text()) for n in range(CLIENTS)]

    def _progress(self, service: Service, starts: int) -> None:
        """Return after this many more starts on the QPU, or when a client has ended."""
        goal = sum(service.starts().values()) + starts
        clients = list(self.clients.values())
        until(
            lambda: (
                sum(service.starts().values()) >= goal
                or any(client.poll() is not None for client in clients)
            )
        )

    def _kill_one(self, service: Service) -> None:
        match self.chance.choice(["service", "client", "client", "simulation"]):
            case "service":
                service.kill()
                self.kills["service"] += 1
                service.start()
            case "client":
                number = self.chance.choice(sorted(self.clients))
                self.clients[number].kill()
                self.clients[number].wait()
                self.kills["client"] += 1
                self.clients[number] = self.client(service, number)
            case _:
                victims = _simulations(service)
                if victims:
                    self.chance.choice(victims).kill()
                    self.kills["simulation"] += 1


def _simulations(service: Service) -> list[psutil.Process]:
    """Return the processes that simulate for a service, not those that only make them."""
    assert service.process is not None
    found = psutil.Process(service.process.pid).children(recursive=True)
    return [process for process in found if process.children() == []]


def jobs_of(service: Service) -> list[JobView]:
    client = service.client()
    try:
        return client.jobs()
    finally:
        client.close()


def budgets_of(service: Service) -> dict[str, dict[str, float]]:
    """Return how each budget stands, by unit."""
    with closing(RemoteBroker(service.socket)) as operator:
        return {
            budget.unit: asdict(budget)
            for project in operator.projects()
            for budget in project.budgets
        }


def check(
    killed: Service, jobs: list[JobView], calls: int, budgets: dict[str, dict[str, float]]
) -> None:
    """Assert that nothing was lost, nothing ran twice, and every budget is right."""
    assert len(jobs) == CLIENTS * calls
    assert {job.state for job in jobs} == {"completed"}
    for job in jobs:
        completed = [task for task in job.tasks if task.state == "completed"]
        assert sum(task.shots for task in completed) == job.shots, job
        assert job.qpu == "vlq" or len(completed) == 1, job
        assert all(task.starts <= 1 for task in job.tasks), job
    assert set(killed.starts().values()) == {1}
    for unit in UNITS:
        billed = sum(c.amount for job in jobs for c in job.usage.charges if c.unit == unit)
        assert abs(budgets[unit]["spent"] - billed) < 1e-6 * max(1.0, billed), (unit, billed)
        assert abs(budgets[unit]["reserved"]) < 1e-6, budgets[unit]


def main() -> None:
    """Run the long campaign and print its kills and starts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="campaign-"))
    print(f"ledgers and logs, kept if anything is wrong: {folder}", flush=True)
    with Campaign(folder, options.calls, random.Random(options.seed)) as campaign:
        _compare(campaign, options.kills)
    shutil.rmtree(folder)


def _compare(campaign: Campaign, kills: int) -> None:
    """Run the same clients without and with kills, and hold the outcomes against each other."""
    whole = campaign.start_service("whole")
    expected = campaign.run(whole, 0)
    whole.stop()
    killed = campaign.start_service("killed")
    found = campaign.run(killed, kills)
    jobs, budgets = jobs_of(killed), budgets_of(killed)
    killed.stop()
    assert found == expected
    check(killed, jobs, campaign.calls, budgets)
    tasks = sum(len(job.tasks) for job in jobs)
    starts = sum(killed.starts().values())
    print(
        f"{campaign.kills.total()} kills ({dict(campaign.kills)}) in "
        f"{len(jobs)} jobs completed, 0 lost; "
        f"{tasks} tasks, {starts} starts on the fake QPU, none twice"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["client"]:
        loop(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
    else:
        main()
