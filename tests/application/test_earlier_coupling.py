"""The coupling of a run that is continued."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.application.run import RunRequest, execute
from orchestrator.config.loading import load_site
from orchestrator.provenance.record import site_document
from orchestrator.provenance.schema import (
    RecordedCoupling,
    RecordedSite,
    RecordedUsage,
    RunRecord,
    RunUsage,
)

AT = datetime(2026, 1, 1, tzinfo=UTC)
CHOSEN = RecordedCoupling(chosen="split", automatic=True)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[RunRequest]:
    """Take the requests of runs, in place of starting them, and let `auto` be asked for."""
    taken: list[RunRequest] = []
    module = "orchestrator.application.run"
    monkeypatch.setattr(f"{module}._asks_for_prediction", lambda _request: True)
    monkeypatch.setattr(f"{module}._execute", lambda request, _watcher: taken.append(request))
    monkeypatch.setattr(
        "orchestrator.application.plan.automatic", lambda _request: RecordedCoupling(chosen="new")
    )
    return taken


@pytest.mark.parametrize(("run", "chosen"), [("r1", "split"), ("r2", "new")])
def test_a_run_continued_by_the_environment_keeps_its_coupling(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: list[RunRequest],
    run: str,
    chosen: str,
) -> None:
    monkeypatch.setenv("HPCQC_RUN_ID", run)
    out = tmp_path / "out"
    out.mkdir()
    earlier = RunRecord(
        id="r1",
        target="t",
        flow="f",
        parameters={},
        qpu="aer",
        coupling=CHOSEN,
        site=RecordedSite.model_validate(site_document(load_site())),
        status="interrupted",
        started_at=AT,
        usage=RunUsage(total=RecordedUsage(), per_qpu={}),
        stages=(),
        jobs=(),
        attempts=(),
        versions={},
        machine={},
    )
    (out / "run.json").write_text(earlier.model_dump_json())
    flow = tmp_path / "plain.py"
    flow.write_text("from prefect import flow\n@flow\ndef plain(): pass\n")
    execute(RunRequest(flow=f"{flow}:plain", out=out), None)  # type: ignore[arg-type]
    assert [request.coupling for request in started] == [chosen]
