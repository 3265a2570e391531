"""A ready flow with half the money it needs stops before it overspends, and goes on with the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ffsim", reason="the chemistry extra is not installed")

from flows.dissociation import dissociation
from orchestrator import resources, runs
from orchestrator.application.jobs import jobs_of
from orchestrator.broker.core.budgets import BudgetExhausted
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.site import Site
from orchestrator.runs import Run
from tests.errors import naming

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    options = {"profile": "vlq", "time_scale": 0}
    yield Site(
        name="test",
        default_qpu="vlq",
        default_compute="local",
        qpus={"vlq": QpuSettings(name="vlq", backend="aer", options=options)},
        computes={"local": ComputeSettings(name="local", workers=1)},
        state_dir=tmp_path,
        source="test",
    )
    resources.shutdown()
    runs.activate(None)


def run(site: Site, name: str, budget: float | None = None) -> None:
    budgets = {} if budget is None else {"billed-s": budget}
    runs.activate(Run(id=name, site=site, budgets=budgets))
    try:
        dissociation(points=2)
    finally:
        resources.shutdown()


def spent(site: Site, name: str) -> float:
    charges = [charge for job in jobs_of(site, name) for charge in job.usage.charges]
    assert {charge.unit for charge in charges} == {"billed-s"}
    return sum(charge.amount for charge in charges)


def test_a_flow_with_half_its_budget_stops_and_goes_on_with_the_whole(site: Site) -> None:
    run(site, "rich")
    whole = spent(site, "rich")
    with pytest.raises(BudgetExhausted, match=naming("poor")):
        run(site, "poor", whole / 2)
    assert 0 < spent(site, "poor") <= whole / 2
    before = {job.id: job.tasks for job in jobs_of(site, "poor")}
    run(site, "poor", whole * 1.001)
    assert spent(site, "poor") == pytest.approx(whole)
    after = {job.id: job.tasks for job in jobs_of(site, "poor")}
    assert before.items() <= after.items()
    assert len(after) == len(jobs_of(site, "rich"))
