"""``hpcqc why``: why a job waits, why it went when it did, and when it will probably run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.application.jobs import why
from orchestrator.cli.output import facts, print_json, say, tabulate
from orchestrator.identity import Tag
from orchestrator.provenance.markup import duration_text

if TYPE_CHECKING:
    from orchestrator.broker.core.explain import TaskReason

__all__ = ["tell_why"]


def tell_why(job: str, site_file: Path | None, *, as_json: bool) -> None:
    """Print what can be said of a job. Raises ``LedgerError``, or what a service answers."""
    found = why(job, site=site_file)
    if as_json:
        from pydantic import TypeAdapter

        print_json(TypeAdapter(type(found)).dump_python(found, mode="json"))
        return
    start = found.expected_start
    facts(
        {
            "QPU": found.qpu,
            "state": found.state.value,
            "jobs before it": found.ahead,
            "probably starts": start and f"{start:%Y-%m-%d %H:%M:%S} UTC",
            "predicted on the QPU": duration_text(found.predicted_s),
            "later jobs that went before it": found.overtaken_by or None,
        },
        title=f"job {found.job}",
    )
    for reason in found.waits_for:
        say(f"waits: {reason}")
    rows = [_row(task) for task in found.tasks]
    if rows:
        tabulate(("task", "planned", "policy", "predicted", "took", "why then"), rows)


def _row(task: TaskReason) -> list[Any]:
    return [
        str(Tag.parse(task.tag).number),
        f"{task.planned_at:%Y-%m-%d %H:%M:%S}",
        task.policy,
        duration_text(task.predicted_s),
        duration_text(task.actual_s),
        task.text,
    ]
