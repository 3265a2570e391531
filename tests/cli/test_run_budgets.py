"""`hpcqc run --budget`: stops before the call that would cost more, keeps the rest, goes on later."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from orchestrator.application.budget_check import check_units, idle_budgets, qpus_of
from orchestrator.config.environment import budgets_of, budgets_of_environment
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.provenance.report import stage_total
from orchestrator.provenance.schema import read_record
from orchestrator.stages import classical, quantum
from tests.errors import naming

FLOW = """
from pathlib import Path
from prefect import flow
from qiskit import QuantumCircuit
from hpcqc import Sampler, classical, quantum


def mark(name):
    with Path("marks").open("a") as log:
        log.write(name + "\\n")


@quantum(retries=3)
def share(qpu, number):
    mark(f"share {number}")
    circuit = QuantumCircuit(1)
    circuit.rx(0.3 * (number + 1), 0)
    circuit.measure_all()
    return qpu.sampler(seed=1).run([circuit], shots=50).result()[0].data.meas.get_counts()


@flow
def shares(points: int = 4):
    return {"summary": [str(share(number)) for number in range(points)]}


@classical
def on_a_worker():
    circuit = QuantumCircuit(1)
    circuit.measure_all()
    return Sampler("vlq").run([circuit], shots=10).result()[0].data.meas.get_counts()


@flow
def hidden():
    return on_a_worker()
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "paid.py").write_text(FLOW)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "paid.py:shares"
    sys.modules.pop("paid", None)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_run_stops_at_its_budget_and_goes_on_with_more(hpcqc: Any, script: str) -> None:
    asked = ("run", script, "--qpu", "vlq", "--run-id", "r1")
    said = hpcqc(*asked, "--budget", "2 billed-s")
    assert said.code == 2
    assert "Traceback" not in said.out + said.err
    assert (
        "the budget of run 'r1' does not cover this job on QPU 'vlq': it needs about 0.9 "
        "billed-s, and 0.2 of 2 billed-s are left (1.8 spent). Nothing was started for it; "
        "continue it with its run id and a higher --budget"
    ) in said.err
    marks = Path("marks")
    # The stage that could not be paid was not tried again, though it may be retried.
    assert marks.read_text().splitlines() == ["share 0", "share 1", "share 2"]
    jobs = hpcqc("jobs", "--run", "r1", "--json").document
    assert [job["state"] for job in jobs] == ["completed"] * 2
    assert hpcqc(*asked).code == 2  # the budget is the run's, and holds until another is given
    marks.unlink()
    said = hpcqc(*asked, "--budget", "3.6 billed-s", "--json")
    assert said.code == 0, said.err
    assert marks.read_text().splitlines() == ["share 2", "share 3"]
    record = said.document
    assert len(record["result"]["summary"]) == 4
    kept = read_record(Path("hpcqc-runs/r1"))
    assert (stage_total(kept), len(kept.stages)) == (4, 6)  # one of them failed twice before
    jobs = hpcqc("jobs", "--run", "r1", "--json").document
    assert sum(job["usage"]["charges"]["billed-s"] for job in jobs) == pytest.approx(3.6)
    assert all(task["starts"] == 1 for job in jobs for task in job["tasks"])


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_budget_is_not_walked_around_on_a_worker(hpcqc: Any, script: str) -> None:
    workers = ("--set", "compute.local.workers=1")
    hidden = ("run", "paid.py:hidden", "--qpu", "vlq", *workers)
    hidden = (*hidden, "--run-id", "h1")
    told = "this run has a budget, which only one broker can keep"
    said = hpcqc(*hidden, "--budget", "5 billed-s")
    assert said.code == 2
    assert told in said.err
    # It is the run's, and holds where the run goes on without another word of it.
    said = hpcqc(*hidden)
    assert said.code == 2
    assert told in said.err
    assert hpcqc(*hidden, "--budget", "none billed-s").code == 0


def test_a_unit_that_nobody_bills_in_is_refused_before_anything_starts(
    hpcqc: Any, script: str
) -> None:
    said = hpcqc("run", script, "--qpu", "vlq", "--budget", "2 euro")
    assert said.code == 2
    told = "no QPU of this site bills in 'euro'; the units are: billed-s (vlq)"
    assert told in said.paragraph
    assert not Path("hpcqc-runs").exists() or not list(Path("hpcqc-runs").iterdir())
    said = hpcqc("run", script, "--budget", "dear")
    assert "budget 'dear': give an amount and its unit, such as '10 billed-s'" in said.paragraph


@pytest.mark.parametrize(
    ("where", "budgets", "told"),
    [
        (None, {"qpu-s": 10.0}, "bill in billed-s (vlq)"),
        (None, {"billed-s": 10.0}, ""),
        (None, {"qpu-s": None}, ""),
        ("aer", {"qpu-s": 10.0}, ""),
        ("aer", {"billed-s": 10.0, "qpu-s": 1.0}, "the budget in billed-s limits nothing"),
    ],
)
def test_a_budget_that_limits_nothing_is_warned_of(
    monkeypatch: pytest.MonkeyPatch,
    where: str | None,
    budgets: dict[str, float | None],
    told: str,
) -> None:
    module = ModuleType("priced")
    monkeypatch.setitem(sys.modules, "priced", module)
    exec(
        "from prefect import flow\nfrom hpcqc import quantum\n"
        f"@quantum(qpu={where!r})\ndef asked(qpu): ...\n@flow\ndef priced(): ...\n",
        vars(module),
    )
    site = load_site(environ={"HPCQC_SITE": "built-in"})
    warnings = idle_budgets(site, qpus_of(module.priced, site, "vlq"), budgets)
    assert len(warnings) == bool(told)
    assert told in "".join(warnings)


def test_units_are_those_of_the_sites_qpus(tmp_path: Path) -> None:
    site = tmp_path / "hpcqc.toml"
    site.write_text('[site]\ndefault_qpu = "f"\n[qpu.f]\nbackend = "fake"\n')
    check_units(load_site(site), ["qpu-s"])
    with pytest.raises(ConfigError, match=naming("eqs", "qpu-s", "f")):
        check_units(load_site(site), ["eqs"])


def test_budgets_are_read_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert budgets_of(["10 billed-s", " 1e3  qpu-s ", "none eqs"]) == {
        "billed-s": 10.0,
        "qpu-s": 1000.0,
        "eqs": None,
    }
    for text in ("10", "", "ten s", "-1 s", "nan s", "inf s"):
        with pytest.raises(ConfigError, match=naming("amount", "unit")):
            budgets_of([text])
    monkeypatch.setenv("HPCQC_BUDGET", "10 billed-s, 5 qpu-s")
    assert budgets_of_environment() == {"billed-s": 10.0, "qpu-s": 5.0}


def test_a_stage_keeps_the_retry_condition_it_was_given() -> None:
    from orchestrator.broker.core.budgets import BudgetExhausted

    class Failed:
        def __init__(self, data: Exception) -> None:
            self.data = data

    async def never(_task: Any, _run: Any, _state: Any) -> bool:
        return False

    plain = classical(lambda: None).retry_condition_fn
    choosy = quantum(retry_condition_fn=lambda _t, _r, state: isinstance(state.data, OSError))(
        lambda qpu: None
    ).retry_condition_fn
    shy = classical(retry_condition_fn=never)(lambda: None).retry_condition_fn
    assert plain is not None
    assert choosy is not None
    assert shy is not None
    verdicts = [
        [condition(None, None, Failed(error)) for condition in (plain, choosy, shy)]  # type: ignore[arg-type]
        for error in (OSError(), RuntimeError(), BudgetExhausted("no"))
    ]
    assert verdicts == [[True, True, False], [True, False, False], [False, False, False]]
