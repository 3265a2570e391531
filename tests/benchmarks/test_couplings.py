"""The couplings benchmark: figures from Slurm's accounting, its tables, and what it predicts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from benchmarks import coupling_sweep, couplings
from benchmarks.coupling_sweep import Case, predicted, rewrite, winner
from benchmarks.couplings import Measured, measured, medians, predictions, table, used_s
from benchmarks.published_experiment import PUBLISHED, Figures, Phases
from orchestrator.couplings.policies import COUPLINGS
from orchestrator.couplings.replay import recommend
from orchestrator.provenance.schema import RecordedJob, RecordedTask, RunRecord
from orchestrator.slurm import AccountedJob
from orchestrator.slurm.states import SlurmState

BEGUN = datetime(2026, 3, 1, 12, tzinfo=UTC)


def job(
    number: int, partition: str, at_s: tuple[int, int, int], nodes: int, **tres
) -> AccountedJob:
    submitted, started, ended = (BEGUN + timedelta(seconds=second) for second in at_s)
    return AccountedJob(
        id=number,
        name=f"hpcqc-{number}",
        user="ann",
        account="lab",
        partition=partition,
        state=SlurmState.COMPLETED,
        submitted_at=submitted,
        started_at=started,
        ended_at=ended,
        elapsed_s=(ended - started).total_seconds(),
        node_count=nodes,
        cpus=4 * nodes,
        tres=tres,
    )


def test_figures_are_of_classical_nodes_from_first_submission_to_last_end() -> None:
    jobs = [
        job(1, "classical", (0, 2, 12), 3),
        job(2, "quantum", (12, 13, 33), 1, **{"gres/qpu": 1.0}),
        job(3, "classical", (33, 35, 40), 1),
    ]
    figures, held_s = measured(jobs, frozenset({"quantum"}), [record(("a", 14, 24))])
    assert figures == Figures(makespan_s=40, node_seconds=35, qpu_busy=0.25)
    assert held_s == 20


def record(*tasks: tuple[str, int, int | None]) -> RunRecord:
    """Return a run whose only job had tasks with these tags, starts and ends."""
    usage = {"qpu_seconds": 99.0}  # what a device says of itself is not what was measured
    known = [
        {
            "tag": tag,
            "state": "completed",
            "shots": 1,
            "planned_at": BEGUN,
            "started_at": BEGUN + timedelta(seconds=begun),
            "ended_at": None if ended is None else BEGUN + timedelta(seconds=ended),
            "usage": usage,
        }
        for tag, begun, ended in tasks
    ]
    job = RecordedJob.model_construct(
        tasks=tuple(RecordedTask.model_validate(task) for task in known)
    )
    return RunRecord.model_construct(jobs=(job,))


def test_the_qpu_is_used_while_tasks_are_on_it_and_a_shared_task_counts_once() -> None:
    assert used_s([record(("a", 0, 10), ("b", 12, 15)), record(("a", 0, 10), ("c", 20, 21))]) == 14
    assert used_s([record(("a", 0, None))]) == 0


RUN = Measured(
    coupling="split",
    repetition=1,
    makespan_s=60,
    node_seconds=100,
    qpu_busy=0.5,
    jobs=9,
    qpu_held_s=30,
    wall_s=70,
)


def test_medians_are_of_each_coupling() -> None:
    runs = [
        replace(RUN, makespan_s=makespan_s, coupling=coupling)
        for coupling, makespans in (("split", (50, 90, 60)), ("exclusive", (100,)))
        for makespan_s in makespans
    ]
    found = medians(runs)
    assert {name: one.makespan_s for name, one in found.items()} == {"split": 60, "exclusive": 100}
    lines = table(runs, 0.05).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "0.60, 0.0%" in next(line for line in lines if line.startswith("| split"))


def test_what_is_predicted_at_full_scale_is_near_what_was_published() -> None:
    found = predictions(1.0)
    for name, theirs in PUBLISHED.items():
        assert found[name].makespan_s == pytest.approx(theirs.makespan_s, rel=0.05)
        assert found[name].node_seconds == pytest.approx(theirs.node_seconds, rel=0.05)
        assert found[name].qpu_busy == pytest.approx(theirs.qpu_busy, abs=0.04)


def test_stages_are_as_long_as_published() -> None:
    assert [Phases().clustering_s(nodes) for nodes in (2, 3)] == [82, 78]
    assert Phases().scaled(0.5).clustering_s(2) == 41


def test_a_winner_has_no_better_one_and_auto_is_near_it() -> None:
    case = Case(ratio=1.0, flows=2, nodes=3, wait_s=0.0)
    outcomes = predicted(case)
    assert set(outcomes) == set(COUPLINGS)
    for measure, value in coupling_sweep.MEASURES.items():
        best = outcomes[winner(outcomes, measure)]
        assert value(best) <= 1.01 * min(map(value, outcomes.values()))
    least_s = min(outcome.makespan_s for outcome in outcomes.values())
    assert outcomes[recommend(outcomes, "time")].makespan_s <= 1.011 * least_s


def test_only_what_is_between_the_markers_is_written_anew(tmp_path) -> None:
    page = tmp_path / "page.md"
    begin = "<!-- sweep: made by python -m benchmarks.coupling_sweep; do not edit -->"
    page.write_text(f"before\n\n{begin}\nold\n<!-- end of sweep -->\nafter\n")
    rewrite(page, "sweep", "| new |")
    assert page.read_text() == f"before\n\n{begin}\n\n| new |\n<!-- end of sweep -->\nafter\n"
    with pytest.raises(ValueError, match="auto"):
        rewrite(page, "auto", "")


def test_without_slurm_there_is_a_row_that_says_so(monkeypatch) -> None:
    monkeypatch.setattr(couplings.shutil, "which", lambda _: None)
    (row,) = couplings.measure()
    assert (row.ours, row.met) == ("not measured", None)
