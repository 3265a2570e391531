"""Predicted beside measured in the report, from ``run.json`` alone."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.application.report import report
from orchestrator.config.loading import load_site
from orchestrator.provenance.record import site_document
from orchestrator.provenance.schema import (
    CouplingUse,
    RecordedCoupling,
    RecordedSite,
    RecordedSlurm,
    RecordedSlurmJob,
    RecordedStage,
    RecordedUsage,
    RunRecord,
    RunUsage,
)

START = datetime(2026, 11, 29, 8, tzinfo=UTC)
USED = RecordedUsage(qpu_seconds=24.0)


def use(**changes: float) -> CouplingUse:
    values = {"makespan_s": 101.0, "node_seconds": 202.0, "qpu_held_s": 33.0, "qpu_used_s": 25.0}
    return CouplingUse(**(values | {"qpu_node_seconds": 34.0} | changes))


def slurm(**changes: Any) -> RecordedSlurm:
    values: dict[str, Any] = {
        "makespan_s": 104.0,
        "node_s": 240.0,
        "worker_node_s": 210.0,
        "core_s": 960.0,
        "gpu_s": 0.0,
        "qpu_held_s": 30.0,
        "jobs": (RecordedSlurmJob(id=17, purpose="worker", state="CANCELLED", elapsed_s=210.0),),
    }
    return RecordedSlurm(**(values | changes))


def page(folder: Path, **changes: Any) -> str:
    """Return the page that `hpcqc report` makes of nothing but the record."""
    site = load_site(environ={"HOME": "/nowhere"})
    values: dict[str, Any] = {
        "id": "r1",
        "target": "t",
        "flow": "f",
        "parameters": {},
        "qpu": "aer",
        "site": RecordedSite.model_validate(site_document(site)),
        "status": "completed",
        "started_at": START,
        "usage": RunUsage(total=USED, per_qpu={}),
        "stages": (
            RecordedStage(
                key="k-0",
                name="embed-1a2",
                kind="classical",
                state="completed",
                started_at=START,
                slurm_job=17,
            ),
        ),
        "jobs": (),
        "attempts": (),
        "versions": {},
        "machine": {},
    }
    record = RunRecord(**(values | changes))
    (folder / "run.json").write_text(record.model_dump_json())
    return report(folder).read_text()


def rows(text: str) -> list[list[str]]:
    found = re.findall(r"<tr>(.*?)</tr>", text, flags=re.DOTALL)
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, flags=re.DOTALL) for row in found]


def test_predicted_is_beside_measured(tmp_path) -> None:
    split, multiplexed = use(), use(makespan_s=90.0)
    coupling = RecordedCoupling(
        chosen="split",
        automatic=True,
        reason="It takes the fewest node-seconds.",
        predicted={"split": split, "multiplexed": multiplexed},
    )
    text = page(tmp_path, coupling=coupling, slurm=slurm())
    found = rows(text)
    assert ["figure", "predicted", "measured"] in found
    assert ["makespan, s", "101", "104"] in found
    assert ["node-seconds of workers", "202", "210"] in found
    assert ["QPU-seconds held", "33", "30"] in found
    assert ["QPU-seconds used", "25", "24"] in found
    assert ["node-seconds in all", "236", "240"] in found
    assert ["multiplexed", "90", "236", "202", "33", "25"] in found
    assert "It takes the fewest node-seconds." in text
    (job,) = [row for row in found if row[:2] == ["17", "worker"]]
    assert "embed" in job[-1]


def test_a_prediction_of_an_earlier_version_has_no_node_seconds_in_all(tmp_path) -> None:
    before = use().model_dump(exclude={"qpu_node_seconds"})
    coupling = RecordedCoupling(chosen="split", predicted={"split": CouplingUse(**before)})
    found = rows(page(tmp_path, coupling=coupling, slurm=slurm()))
    assert ["node-seconds of workers", "202", "210"] in found
    assert ["node-seconds in all", "-", "240"] in found


def test_without_a_prediction_there_is_no_column_for_it(tmp_path) -> None:
    text = page(tmp_path, coupling=RecordedCoupling(chosen="gated"), slurm=slurm())
    assert ["makespan, s", "104"] in rows(text)
    assert "gated" in text


def test_without_slurms_answer_nothing_was_measured(tmp_path) -> None:
    coupling = RecordedCoupling(chosen="split", predicted={"split": use()})
    assert ["makespan, s", "101", "-"] in rows(page(tmp_path, coupling=coupling))


def test_a_laptops_report_says_nothing_of_slurm(tmp_path) -> None:
    assert "Slurm" not in page(tmp_path)


def test_figures_that_are_not_final_say_so(tmp_path) -> None:
    assert "hpcqc accounting" in page(tmp_path, slurm=slurm(is_complete=False))
