"""Budgets over HTTP and on the command line: refused with amounts, never overdrawn, kept by a restart."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from hpcqc import statement
from orchestrator.broker.client.http import BrokerRefused
from orchestrator.broker.core.budgets import BudgetExhausted
from orchestrator.cli.broker.projects import _COLUMNS, _write_csv
from tests.errors import naming
from tests.patience import PATIENCE_S, until
from tests.service.calls import bell, call, job_head
from tests.service.conftest import ROOT, Service, Start
from tests.service.rooms import Room, open_room

RUN_S = 0.05


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """A broker whose QPU takes 0.05 s for each task, and bills that."""
    with open_room(tmp_path, run_s=RUN_S, more={"coalesces": False}) as opened:
        yield opened


def ask(room: Room, method: str, path: str, caller: str = "operator", **options: Any) -> Any:
    return room.http.request(method, path, headers=room.headers[caller], **options)


def submit(room: Room, number: int, caller: str = "owner", **changes: Any) -> Any:
    asked = {"run": "r", "qpu": "fake", "call": number} | changes
    return ask(room, "POST", "/v1/jobs", caller, asked=asked, content=bell().to_bytes())


def finish(room: Room, answer: Any) -> None:
    assert answer.status_code in (200, 201), answer.text
    job = answer.json()["id"]
    seen = ask(room, "GET", f"/v1/jobs/{job}", params={"wait_s": 20}).json()
    assert seen["state"] == "completed"


def limit(room: Room, amount: float | None, project: str = "chem") -> Any:
    body = {"project": project, "unit": "qpu-s", "amount": amount}
    return ask(room, "POST", "/v1/budgets/projects", json=body)


def budget(room: Room, project: str = "chem") -> dict[str, Any]:
    found = {use["project"]: use for use in ask(room, "GET", "/v1/projects").json()}
    (one,) = found[project]["budgets"]
    return dict(one)


def test_a_refusal_is_a_problem_that_says_what_is_left(room: Room) -> None:
    finish(room, submit(room, 0))
    assert limit(room, 0.07).json()["budgets"][0]["left"] == pytest.approx(0.02)
    refused = submit(room, 1)
    problem = refused.json()
    assert (refused.status_code, problem["error_type"]) == (402, "BudgetExhausted")
    assert "Retry-After" not in refused.headers
    assert "it needs about 0.05 qpu-s, and 0.02 of 0.07 qpu-s are left" in problem["detail"]
    assert len(ask(room, "GET", "/v1/jobs").json()) == 1
    limit(room, None)
    finish(room, submit(room, 1))
    assert budget(room) == {
        "unit": "qpu-s",
        "amount": None,
        "spent": pytest.approx(2 * RUN_S),
        "reserved": pytest.approx(0.0, abs=1e-9),
        "left": None,
    }


def test_calls_that_come_together_do_not_overspend(room: Room) -> None:
    finish(room, submit(room, 0))
    limit(room, 4.5 * RUN_S)

    async def together() -> list[int]:
        transport = httpx.ASGITransport(room.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answers = await asyncio.gather(
                *(
                    client.post(
                        "/v1/jobs",
                        content=bell().to_bytes(),
                        headers=room.headers["owner"] | job_head(call=number),
                    )
                    for number in range(1, 13)
                )
            )
        return sorted(answer.status_code for answer in answers)

    # Handed in on the broker's own loop before any of them is written.
    assert room.http.wait(together()) == [201] * 3 + [402] * 9
    until(lambda: budget(room)["reserved"] < 1e-9)
    assert budget(room)["spent"] == pytest.approx(4 * RUN_S)
    blobs = room.app.state.broker.events.blobs
    assert len(blobs.payloads) <= 4  # what was refused is not kept


def test_users_see_the_budgets_of_their_projects_alone(room: Room) -> None:
    limit(room, 5.0)
    limit(room, 6.0, "optics")
    for caller, projects in (("owner", ["chem"]), ("other", ["optics"])):
        seen = ask(room, "GET", "/v1/budgets/projects", caller).json()
        assert [one["project"] for one in seen] == projects
        (limited,) = [u for u in ask(room, "GET", "/v1/projects", caller).json() if u["budgets"]]
        assert [limited["project"]] == projects
    refused = ask(
        room,
        "POST",
        "/v1/budgets/projects",
        "owner",
        json={"project": "chem", "unit": "qpu-s", "amount": 1e9},
    )
    assert refused.status_code == 403
    assert budget(room)["amount"] == 5.0


def test_projects_that_have_members_alone_are_listed(room: Room) -> None:
    for caller, projects in (
        ("owner", ["chem", "qml"]),
        ("other", ["optics"]),
        ("operator", ["chem", "ops", "optics", "qml"]),
    ):
        seen = ask(room, "GET", "/v1/projects", caller).json()
        assert [use["project"] for use in seen] == projects
        assert all(use["jobs"] == 0 and use["budgets"] == [] for use in seen)


def test_a_user_limits_runs_of_their_own_alone(room: Room) -> None:
    """Clients choose run ids: two users with the same id do not affect each other."""
    body = {"run": "r", "unit": "qpu-s", "amount": 0.0}
    assert ask(room, "POST", "/v1/budgets/runs", "other", json=body).status_code == 200
    finish(room, submit(room, 0, "owner"))
    refused = submit(room, 0, "other")
    assert refused.status_code == 402
    assert "the budget of run 'r' does not cover" in refused.json()["detail"]
    assert ask(room, "GET", "/v1/budgets/runs", "owner", params={"run": "r"}).json() == {
        "run": "r",
        "budgets": [],
    }
    assert submit(room, 0, "other", run="s").status_code == 201


def test_a_statement_holds_nothing_of_others(room: Room) -> None:
    finish(room, submit(room, 0, "owner"))
    finish(room, submit(room, 0, "other"))
    for caller, projects in (
        ("owner", ["chem"]),
        ("other", ["optics"]),
        ("operator", ["chem", "optics"]),
    ):
        lines = ask(room, "GET", "/v1/statement", caller).json()
        assert [line["project"] for line in lines] == projects
        assert all(line["charged"] == pytest.approx(RUN_S) for line in lines)
    theirs = {"project": "optics"}
    assert ask(room, "GET", "/v1/statement", "owner", params=theirs).json() == []
    assert len(ask(room, "GET", "/v1/statement", params=theirs).json()) == 1
    assert ask(room, "GET", "/v1/statement", params={"month": "2020-01"}).json() == []


def test_a_budget_is_told_to_prometheus(room: Room) -> None:
    limit(room, 5.0)
    text = ask(room, "GET", "/metrics").text
    assert 'hpcqc_budget_left{project="chem",unit="qpu-s"} 5.0' in text
    limit(room, None)
    assert "hpcqc_budget_left{" not in ask(room, "GET", "/metrics").text


@pytest.mark.parametrize("amount", [-1, "NaN", "Infinity", "much"])
def test_an_amount_is_a_finite_number(room: Room, amount: object) -> None:
    body = json.dumps({"project": "chem", "unit": "qpu-s", "amount": amount})
    raw = body.replace('"NaN"', "NaN").replace('"Infinity"', "Infinity")
    headers = room.headers["operator"] | {"Content-Type": "application/json"}
    answer = room.http.post("/v1/budgets/projects", content=raw, headers=headers)
    assert answer.status_code == 422


def test_the_error_survives_its_way_from_a_worker() -> None:
    told = pickle.loads(pickle.dumps(BudgetExhausted("not enough")))
    assert (type(told), str(told), told.retryable) == (BudgetExhausted, "not enough", False)


def test_no_sum_shows_its_rounding_in_a_table_for_a_spreadsheet(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line: dict[str, Any] = dict.fromkeys(_COLUMNS, 0) | {"project": "=chem", "unit": "qpu-s"}
    _write_csv([line | {"charged": 0.1 + 0.2, "saved": 1234567.25, "qpu_seconds": 2.0}])
    (read,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (read["charged"], read["saved"], read["qpu_seconds"]) == ("0.3", "1234567.25", "2")
    assert read["project"] == "'=chem"


def hpcqc(service: Service, *arguments: str) -> tuple[int, str, str]:
    """Run a command as the broker's user, an operator on its socket."""
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "broker", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HPCQC_STATE_DIR": str(service.state)},
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_client_is_told_and_a_restart_keeps_the_books(start_service: Start) -> None:
    service = start_service(options="run_s = 0.05, coalesces = false")
    client = service.client()
    client.result(client.submit(call(), bell()))
    client.limit_run("r", "qpu-s", 0.12)
    client.result(client.submit(call(1), bell()))
    with pytest.raises(BudgetExhausted, match=naming("0.02", "0.12", "0.1", "qpu-s")):
        client.submit(call(2), bell())
    with pytest.raises(BrokerRefused, match=naming("euro")):
        client.limit_run("r", "euro", 1.0)
    client.close()
    service.kill()
    again = start_service(options="run_s = 0.05, coalesces = false")
    client = again.client()
    with pytest.raises(BudgetExhausted, match=naming("0.02", "0.12")):
        client.submit(call(2), bell())
    client.limit_run("r", "qpu-s", 0.2)
    client.result(client.submit(call(2), bell()))
    client.close()


@pytest.mark.slow
def test_projects_are_managed_and_months_stated(
    start_service: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = start_service(options="run_s = 0.05, coalesces = false")
    client = service.client(project="chem")
    client.result(client.submit(call(), bell()))
    client.close()
    code, out, _ = hpcqc(service, "projects", "chem", "--budget", "5 qpu-s")
    assert code == 0
    assert out.strip() == ("chem may spend 5 in qpu-s: 0.05 spent, 0 reserved, 4.95 left")
    _, out, _ = hpcqc(service, "projects")
    (row,) = [line.split() for line in out.splitlines() if "chem" in line]
    assert row == ["chem", "1", "0", "100", "0.05", "qpu-s", "5", "0.05", "0", "4.95"]
    month = f"{datetime.now(UTC):%Y-%m}"
    _, out, _ = hpcqc(service, "statement", "--project", "chem", "--csv")
    (line,) = csv.DictReader(io.StringIO(out))
    assert (line["project"], line["month"], line["qpu"], line["unit"]) == (
        "chem",
        month,
        "fake",
        "qpu-s",
    )
    assert float(line["charged"]) == pytest.approx(0.05)
    _, out, _ = hpcqc(service, "statement", "--month", month, "--json")
    assert json.loads(out)[0]["jobs"] == 1
    monkeypatch.setenv("HPCQC_STATE_DIR", str(service.state))
    (typed,) = statement(month=month)
    assert (typed.project, typed.jobs, typed.charged) == ("chem", 1, pytest.approx(0.05))
    _, out, _ = hpcqc(service, "statement")
    assert "charged in all: 0.05 qpu-s" in out
    assert hpcqc(service, "statement", "--month", "2020-01")[1].strip() == "nothing was charged"
    _, out, _ = hpcqc(service, "projects", "chem", "--budget", "0.01 qpu-s")
    assert out.strip().endswith("0.05 spent, 0 reserved, overdrawn by 0.04 qpu-s")
    assert "overdrawn by 0.04" in hpcqc(service, "projects", "chem")[1]
    _, out, _ = hpcqc(service, "projects", "chem", "--budget", "none qpu-s")
    assert out.strip() == "chem has no limit in qpu-s: 0.05 spent, 0 reserved"


@pytest.mark.slow
def test_a_budget_of_a_project_that_nobody_knows_is_set_and_says_so(service: Service) -> None:
    service.tokens.add("ada", "user", ["chemistry"], now=datetime.now(UTC))
    budget = ("--budget", "5 qpu-s")
    code, out, _ = hpcqc(service, "projects", "chemisty", *budget)
    assert code == 0
    limited, told = out.strip().splitlines()
    assert limited == "chemisty may spend 5 in qpu-s: 0 spent, 0 reserved, 5 left"
    assert told == (
        "nobody has a token for project 'chemisty', and no job has named it yet; "
        "did you mean 'chemistry'?"
    )
    assert len(hpcqc(service, "projects", "chemistry", *budget)[1].splitlines()) == 1
    _, out, _ = hpcqc(service, "projects", "physics", *budget, "--json")
    assert json.loads(out)["known"] is False
    assert hpcqc(service, "statement", "--project", "chemistry")[:2] == (
        0,
        "nothing was charged\n",
    )


@pytest.mark.slow
def test_mistakes_on_the_command_line_are_told_in_a_paragraph(service: Service) -> None:
    for arguments, words in (
        (("projects", "--budget", "5 qpu-s"), "--budget needs the project it is for"),
        (("projects", "chem", "--budget", "much"), "budget 'much': give an amount and its unit"),
        (("projects", "chem", "--budget", "-1 qpu-s"), "give an amount and its unit"),
        (("projects", "chem", "--budget", "5 euro"), "no QPU here bills in 'euro'"),
        (("projects", "nobody"), "no project 'nobody' that this user may see"),
        (("statement", "--project", "nobody"), "no project 'nobody' that this user may see"),
        (("statement", "--month", "November"), "give a year and a month, such as 2026-11"),
    ):
        code, out, err = hpcqc(service, *arguments)
        assert (code, out) == (2, ""), (arguments, err)
        assert words in err
        assert len(err.strip().splitlines()) == 1


FLOW = """
from prefect import flow
from qiskit import QuantumCircuit
from hpcqc import quantum


@quantum(retries=2)
def share(qpu, number):
    circuit = QuantumCircuit(1)
    circuit.rx(0.3 * (number + 1), 0)
    circuit.measure_all()
    return qpu.sampler(seed=1).run([circuit], shots=50).result()[0].data.meas.get_counts()


@flow
def shares(points: int = 3):
    return [share(number) for number in range(points)]
"""


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_run_at_a_service_stops_at_its_budget_and_goes_on(
    service: Service, tmp_path: Path
) -> None:
    (tmp_path / "shares.py").write_text(FLOW)

    def run(budget: str) -> tuple[int, str]:
        command = ["run", "shares.py", "--qpu", "vlq", "--run-id", "r7", "--budget", budget]
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", *command],
            cwd=tmp_path,
            env=os.environ
            | {
                "PYTHONPATH": str(ROOT),
                "HPCQC_STATE_DIR": str(tmp_path / "mine"),
                "HPCQC_BROKER_URL": service.socket,
            },
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr
        return done.returncode, done.stderr

    code, told = run("2 euro")
    assert (code, "no QPU here bills in 'euro'; the units are: billed-s" in told) == (2, True)
    code, told = run("2 billed-s")
    assert code == 2
    assert "the budget of run 'r7' does not cover this job on QPU 'vlq'" in told
    client = service.client()
    first = {job.id: job.ended_at for job in client.jobs("r7")}
    assert len(first) == 2
    assert run("3 billed-s")[0] == 0
    jobs = client.jobs("r7")
    client.close()
    assert len(jobs) == 3
    assert first.items() <= {job.id: job.ended_at for job in jobs}.items()
    assert [len(job.tasks) for job in jobs] == [1, 1, 1]
