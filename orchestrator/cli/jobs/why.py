"""``hpcqc why``: why a job waits, why it ran when it did, and when it will probably run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import Json, SiteFile
from orchestrator.cli.output import facts, print_json, say, tabulate
from orchestrator.provenance.markup import duration_text

if TYPE_CHECKING:
    from orchestrator.broker.core.explain import TaskReason

__all__ = ["why"]


def why(
    job: Annotated[
        str, typer.Argument(metavar="JOB", help="A job's id, or the unambiguous start of it.")
    ],
    site: SiteFile = None,
    as_json: Json = False,
) -> None:
    """Report why a quantum job waits, why it ran when it did, and when it will probably run."""
    from pydantic_core import to_jsonable_python

    from orchestrator.application.jobs import why as explained

    found = explained(job, site=site)
    if as_json:
        print_json(to_jsonable_python(found))
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
    from orchestrator.identity import Tag

    return [
        str(Tag.parse(task.tag).number),
        f"{task.planned_at:%Y-%m-%d %H:%M:%S}",
        task.policy,
        duration_text(task.predicted_s),
        duration_text(task.actual_s),
        task.text,
    ]
