"""The whole agent: Prefect, broker, Dask and worker, with flows on them, while things die."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.agent.folder import AgentFolder
from orchestrator.agent.processes import marked
from orchestrator.compute.cluster_process import WORKER_ENVIRONMENT
from tests.patience import PATIENCE_S, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FLOW = """
import time
import neighbour
from hpcqc import classical, quantum
from prefect import flow
from qiskit import QuantumCircuit

@classical
def angle(number, pause):
    time.sleep(pause)
    return neighbour.STEP * number

@quantum
def ups(qpu, angle, calls, pause):
    circuit = QuantumCircuit(2)
    circuit.ry(angle, 0)
    circuit.cx(0, 1)
    circuit.measure_all()
    sampler = qpu.sampler(seed=7)
    found = []
    for _ in range(calls):
        counts = sampler.run([circuit], shots=200).result()[0].data.meas.get_counts()
        found.append(counts.get("11", 0))
        time.sleep(pause)
    return found

@flow
def curve(points: int = 2, calls: int = 3, pause: float = 0.0):
    angles = [angle.submit(number, pause) for number in range(points)]
    return [ups.submit(a, calls, pause).result() for a in angles]
"""
NEIGHBOUR = """
import time
from dataclasses import dataclass
from pathlib import Path

STEP = 0.7

@dataclass(frozen=True)
class Item:
    number: int
    done: str

def squared(item):
    time.sleep(0.3)
    with Path(item.done).open("a") as file:
        file.write(f"{item.number}\\n")
    return item.number ** 2
"""
SPREAD = """
import neighbour
from hpcqc import classical, fan_out
from prefect import flow

@classical
def inside(count, done):
    return sum(fan_out(neighbour.squared, [neighbour.Item(k, done) for k in range(count)]))

@flow
def spread(done: str, count: int = 40):
    outside = fan_out(neighbour.squared, [neighbour.Item(k, done) for k in range(count)])
    return [sum(outside), inside(count, done)]
"""
SLOW = ("-p", "points=4", "-p", "calls=3", "-p", "pause=0.5")


@dataclass(frozen=True)
class Agent:
    """The command line against one state folder."""

    state: Path
    flows: Path

    def __call__(self, *arguments: str, code: int = 0) -> Any:
        done = self.run(*arguments)
        assert done.returncode == code, f"{arguments}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        return json.loads(done.stdout)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "orchestrator.cli", *arguments, "--json"]
        environment = os.environ | {
            "HPCQC_STATE_DIR": str(self.state),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        for name in ("PREFECT_HOME", "PREFECT_API_URL", "PREFECT_LOGGING_TO_API_ENABLED"):
            environment.pop(name, None)
        return subprocess.run(
            command,
            env=environment,
            cwd=self.flows,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def logs(self) -> str:
        return self.run("agent", "logs", "--lines", "15").stdout

    def healthy(self) -> bool:
        return bool(json.loads(self.run("agent", "status").stdout)["healthy"])

    def pid(self, name: str) -> int:
        said = self.said()
        return int((said["supervisor"] if name == "supervisor" else said["children"][name])["pid"])

    def said(self) -> dict[str, Any]:
        return json.loads((self.state / "agent" / "state.json").read_text())

    def api(self, path: str, body: dict[str, Any] | None = None) -> Any:
        password = b64encode((self.state / "agent" / "prefect-password").read_bytes()).decode()
        request = urllib.request.Request(
            self.said()["addresses"]["prefect_api"] + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json", "authorization": f"Basic {password}"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def until(self, run: str, *wanted: str) -> None:
        """Return when Prefect says that the run is in one of these states."""

        def state() -> str:
            with contextlib.suppress(OSError):  # while the server is away
                return str(self.api(f"/flow_runs/{run}")["state"]["name"])
            return ""

        until(lambda: state() in wanted, lambda: f"{state()}\n{self.logs()}", pause_s=0.1)

    def ended(self, run: str) -> dict[str, Any]:
        self.until(run, "Completed", "Failed")
        return self("runs", run)

    def broker(self, run: str) -> str | None:
        """Return the url of the broker that the record of a run names."""
        record = json.loads((self.flows / "hpcqc-runs" / run / "run.json").read_text())
        return record["site"]["broker"]["url"]

    def starts(self, run: str) -> list[int]:
        jobs = self("jobs", "--run", run, "--limit", "1000")
        return [task["starts"] for job in jobs for task in job["tasks"]]


@pytest.fixture(scope="module")
def agent(tmp_path_factory) -> Iterator[Agent]:
    flows = tmp_path_factory.mktemp("f")
    (flows / "curve.py").write_text(FLOW)
    (flows / "spread.py").write_text(SPREAD)
    (flows / "neighbour.py").write_text(NEIGHBOUR)
    made = Agent(state=tmp_path_factory.mktemp("s"), flows=flows)
    made("agent", "start")
    made("deploy", "curve.py:curve")
    yield made
    made("agent", "stop")
    assert marked(made.state / "agent") == []


@pytest.fixture(scope="module")
def expected(agent) -> list[list[int]]:
    """What the flow returns when nothing dies."""
    run = agent("submit", "curve", *SLOW, "--wait")
    assert run["state"] == "Completed"
    assert len(run["result"]) == 4
    starts = agent.starts(run["id"])
    assert starts == [1] * 12
    return run["result"]


def test_a_second_agent_is_refused_and_told_who_is_first(agent):
    refused = agent("agent", "start", code=2)
    assert f"process {agent.pid('supervisor')} on " in refused["error"]["message"]
    assert agent("agent", "status")["healthy"]


def test_two_flows_at_once_are_right_and_seen_in_prefect(agent):
    first = agent("submit", "curve", "-p", "points=2")
    second = agent("submit", "curve", "-p", "points=3")
    for submitted, points in ((first, 2), (second, 3)):
        run = agent.ended(submitted["id"])
        assert len(run["result"]) == points
        shown = agent.api("/artifacts/filter", {"limit": 200})
        shown = [artifact for artifact in shown if artifact["key"] == "jobs-ups"]
        mine = [artifact for artifact in shown if artifact["flow_run_id"] == submitted["id"]]
        assert len(mine) == points
        page = agent("agent", "status")["addresses"]["broker"]
        assert all(f"]({page})" in artifact["data"] for artifact in mine)
        assert all(artifact["data"].count("| completed |") == 3 for artifact in mine)
        tasks = agent.api("/task_runs/filter", {"limit": 200})
        known = {task["id"] for task in tasks if task["flow_run_id"] == submitted["id"]}
        assert {artifact["task_run_id"] for artifact in mine} <= known
    with urllib.request.urlopen(page, timeout=PATIENCE_S) as answer:
        assert answer.status == 200


def test_a_changed_module_beside_the_flow_counts_for_the_next_run(agent):
    (agent.flows / "neighbour.py").write_text(NEIGHBOUR.replace("0.7", "3.14159265 / 2"))
    changed = agent("submit", "curve", "--wait")["result"]
    (agent.flows / "neighbour.py").write_text(NEIGHBOUR)
    before = agent("submit", "curve", "--wait")["result"]
    assert changed != before


def test_a_run_goes_to_the_qpu_that_was_asked_for(agent):
    run = agent("submit", "curve", "--qpu", "vlq", "-p", "points=1", "-p", "calls=1", "--wait")
    assert {job["qpu"] for job in agent("jobs", "--run", run["id"])} == {"vlq"}
    wrong = agent("submit", "curve", "--qpu", "vlk", code=2)
    assert "did you mean 'vlq'?" in wrong["error"]["message"]


def test_a_site_file_where_it_is_submitted_from_is_not_the_agents(agent, tmp_path):
    (tmp_path / "hpcqc.toml").write_text("[qpu.elsewhere]\nbackend = 'aer'\n")
    from_there = replace(agent, flows=tmp_path)
    run = from_there("submit", "curve", "-p", "points=2", "--wait")
    assert run["state"] == "Completed"
    jobs = agent("jobs", "--run", run["id"], "--limit", "1000")
    assert {job["qpu"] for job in jobs} == {"aer"}
    refused = from_there.run("submit", "curve", "--qpu", "elsewhere")
    assert refused.returncode == 2
    assert "no QPU 'elsewhere'" in refused.stderr


def test_mistakes_are_told_before_anything_is_submitted(agent):
    count = len(agent("runs"))
    for arguments, said in (
        (("submit", "kurve"), "no flow is deployed under the name 'kurve'; deployed flows: "),
        (("submit", "kurve"), "did you mean 'curve'?"),
        (("submit", "curve", "-p", "point=2"), "did you mean 'points'?"),
        (("submit", "curve", "-p", "points=two"), "expected int"),
        (("deploy", "curve.py:kurve"), "its flows are: curve"),
        (("runs", "nonsense"), "no run with id"),
        (("agent", "logs", "nonsense"), "there are: broker, dask, prefect"),
    ):
        assert said in agent(*arguments, code=2)["error"]["message"]
    assert len(agent("runs")) == count


def flow_process(agent: Agent, run: str) -> int:
    record = agent.state / "agent" / "flows" / f"{run}.json"
    until(record.exists)
    return int(json.loads(record.read_text())["pid"])


def test_hpcqc_run_uses_the_services_of_a_running_agent(agent):
    own = agent("run", "curve.py", "--no-agent", "--run-id", "alone")
    beside = agent("run", "curve.py", "--run-id", "beside")
    other = agent("run", "curve.py", "--set", "site.name=elsewhere", "--run-id", "elsewhere")
    assert own["result"] == beside["result"] == other["result"]
    brokers = {run: agent.broker(run) for run in ("alone", "beside", "elsewhere")}
    socket = agent.said()["addresses"]["broker_api"]
    assert brokers == {"alone": None, "beside": socket, "elsewhere": None}
    # Continued runs stay with the broker that has their jobs.
    again = agent("run", "curve.py", "--run-id", "alone")
    assert agent.broker("alone") is None
    assert again["result"] == own["result"]
    refused = agent("run", "curve.py", "--run-id", "beside", "--no-agent", code=2)
    assert "would run again" in refused["error"]["message"]
    assert agent.starts("beside") == [1] * 6


@pytest.mark.parametrize("victim", ["worker", "flow", "prefect", "dask", "broker", "supervisor"])
def test_killing_any_process_costs_only_time(agent, expected, victim):
    run = agent("submit", "curve", *SLOW)["id"]
    process = flow_process(agent, run)
    agent.until(run, "Running")
    until(lambda: agent.starts(run))
    os.kill(process if victim == "flow" else agent.pid(victim), signal.SIGKILL)
    if victim == "supervisor":
        agent("agent", "start")
    found = agent.ended(run)
    assert found["result"] == expected, f"{found}\n{agent.logs()}"
    assert agent.starts(run) == [1] * 12
    until(agent.healthy)


def until_more(file: Path, lines: int, story: Callable[[], object]) -> None:
    before = len(file.read_text().splitlines())
    until(lambda: len(file.read_text().splitlines()) >= before + lines, story)


def test_units_are_spread_again_when_dask_is_killed(agent):
    children = psutil.Process(agent.pid("dask")).children(recursive=True)
    workers = [one for one in children if "spawn_main" in " ".join(one.cmdline())]
    assert workers
    assert all(one.environ().items() >= WORKER_ENVIRONMENT.items() for one in workers)
    done = agent.flows / "done.txt"
    done.touch()
    agent("deploy", "spread.py:spread")
    run = agent("submit", "spread", "-p", f"done={done}")["id"]
    for _ in range(2):
        until(agent.healthy)
        until_more(done, 5, agent.logs)
        os.kill(agent.pid("dask"), signal.SIGKILL)
    found = agent.ended(run)
    assert found["result"] == [sum(k**2 for k in range(40))] * 2, f"{found}\n{agent.logs()}"


def test_a_run_under_way_goes_on_after_stop_and_start(agent, expected):
    run = agent("submit", "curve", *SLOW)["id"]
    agent.until(run, "Running")
    until(lambda: agent.starts(run))
    agent("agent", "stop")
    assert marked(AgentFolder(path=agent.state / "agent").path) == []
    assert agent("agent", "status", code=1)["phase"] == "stopped"
    assert "no agent is running" in agent("submit", "curve", code=2)["error"]["message"]
    agent("agent", "start")
    found = agent.ended(run)
    assert found["result"] == expected
    assert agent.starts(run) == [1] * 12
