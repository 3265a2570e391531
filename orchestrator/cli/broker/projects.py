"""``hpcqc broker projects`` and ``statement``: what projects may spend, and what they did."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import Json, SiteFile
from orchestrator.cli.output import print_json, say, tabulate
from orchestrator.wording import visible

if TYPE_CHECKING:
    from orchestrator.broker.client.models import ProjectUse
    from orchestrator.broker.core.budgets import BudgetStatus

__all__ = ["projects", "statement"]


def projects(
    project: Annotated[
        str | None, typer.Argument(metavar="[PROJECT]", help="This one alone.")
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget",
            metavar="'AMOUNT UNIT'",
            help="Let the project spend so much in all, such as '500 billed-s'; 'none billed-s' "
            "lifts the limit. Repeatable, for operators.",
        ),
    ] = None,
    site: SiteFile = None,
    as_json: Json = False,
) -> None:
    """Show what each project used and has left in each unit, or set a project's budget."""
    from orchestrator.application.service import check_project, open_service

    if budget:
        _limit(project, budget, site, as_json=as_json)
        return
    with closing(open_service(site=site)) as broker:
        found = broker.projects()
    if project is not None:
        check_project(project, (use.project for use in found))
        found = [use for use in found if use.project == project]
    if as_json:
        print_json(found)
        return
    rows = [row for use in found for row in _project_rows(use)]
    columns = ("project", "jobs", "open", "shots", "QPU-seconds")
    tabulate((*columns, "unit", "budget", "spent", "reserved", "left"), rows)


def statement(
    project: Annotated[
        str | None, typer.Option("--project", metavar="NAME", help="Of this project alone.")
    ] = None,
    month: Annotated[
        str | None,
        typer.Option("--month", metavar="YYYY-MM", help="In UTC; this month if not given."),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Write CSV to stdout.")] = False,
    site: SiteFile = None,
    as_json: Json = False,
) -> None:
    """State what each project was charged in a month, by QPU and unit."""
    from orchestrator.application.service import statement as stated
    from orchestrator.config.errors import ConfigError

    if as_csv and as_json:
        raise ConfigError("--csv and --json both set the form; give one of them")
    lines = [asdict(line) for line in stated(project, month, site=site)]
    if as_json:
        print_json(lines)
    elif as_csv:
        _write_csv(lines)
    elif not lines:
        say("nothing was charged")
    else:
        _tabulate(lines)


def _limit(
    project: str | None, budgets: Sequence[str], site: Path | None, *, as_json: bool
) -> None:
    """Set or lift what a project may spend, and say so if the project is not known yet.

    Operators limit projects before their first job, so an unknown one is not a mistake by itself.
    """
    from backends.suggestions import did_you_mean
    from orchestrator.application.service import open_service
    from orchestrator.config.environment import budgets_of
    from orchestrator.config.errors import ConfigError

    if project is None:
        raise ConfigError("--budget needs the project it is for: hpcqc broker projects PROJECT …")
    wanted = budgets_of(budgets)
    with closing(open_service(site=site)) as broker:
        known = [use.project for use in broker.projects()]
        found = [broker.limit_project(project, unit, amount) for unit, amount in wanted.items()][-1]
    if as_json:
        print_json(found.model_dump() | {"known": project in known})
        return
    _print_limits(project, wanted, {one.unit: one for one in found.budgets})
    if project not in known:
        say(
            f"nobody has a token for project {project!r}, and no job has named it yet"
            f"{did_you_mean(project, known)}"
        )


def _project_rows(use: ProjectUse) -> list[list[Any]]:
    """Return a row for each unit; values common to all are in the first."""
    head = [use.project, use.jobs, use.open, use.shots, round(use.qpu_seconds, 3)]
    stands = [
        [b.unit, *map(_rounded, (b.amount, b.spent, b.reserved)), _left(b)] for b in use.budgets
    ]
    rows = [[*head, *one] for one in stands[:1]] or [[*head, "", None, None, None, None]]
    return rows + [["", None, None, None, None, *one] for one in stands[1:]]


def _print_limits(project: str, units: Iterable[str], stands: Mapping[str, BudgetStatus]) -> None:
    from orchestrator.broker.core.budgets import BudgetStatus

    for unit in units:
        nothing = BudgetStatus(unit=unit, amount=None, spent=0.0, reserved=0.0, left=None)
        one = stands.get(unit, nothing)
        used = f"{one.spent:.6g} spent, {one.reserved:.6g} reserved"
        limit = "has no limit" if one.amount is None else f"may spend {one.amount:.6g}"
        left = _left(one)
        if isinstance(left, float):
            used += f", {left:.6g} left"
        elif left:
            used += f", {left} {unit}"
        say(f"{project} {limit} in {unit}: {used}")


def _left(budget: BudgetStatus) -> float | str | None:
    """Return what is left: None without a limit, in words if more than all is gone."""
    from orchestrator.broker.core.budgets import overdrawn

    if budget.amount is None or budget.left is None:
        return None
    over = overdrawn(budget.amount, budget.left)
    return f"overdrawn by {over:.6g}" if over else float(_rounded(max(0.0, budget.left)))


_COLUMNS = {
    "project": "project",
    "month": "month",
    "qpu": "QPU",
    "jobs": "jobs",
    "tasks": "tasks",
    "shots": "shots",
    "qpu_seconds": "QPU-seconds",
    "charged": "charged",
    "unit": "unit",
    "saved": "saved",
    "leases": "leases",
    "lease_held_s": "held s",
    "lease_used_s": "used s",
}


def _write_csv(lines: Sequence[Mapping[str, Any]]) -> None:
    writer = csv.DictWriter(sys.stdout, list(_COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _csv_cell(line[name]) for name in _COLUMNS} for line in lines)


def _csv_cell(value: Any) -> Any:
    """Keep a spreadsheet from taking a name for a formula, and a sum's rounding from showing."""
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")
    if not isinstance(value, str):
        return value
    text = visible(value, lines=False)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def _tabulate(lines: Sequence[Mapping[str, Any]]) -> None:
    tabulate(
        list(_COLUMNS.values()), [[_rounded(line[name]) for name in _COLUMNS] for line in lines]
    )
    total: Counter[str] = Counter()
    for line in lines:
        if line["unit"]:
            total[line["unit"]] += line["charged"]
    say("charged in all: " + ", ".join(f"{amount:.6g} {unit}" for unit, amount in total.items()))


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
