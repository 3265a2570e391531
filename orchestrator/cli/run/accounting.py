"""``hpcqc accounting``: what runs used, by Slurm's accounting and by the ledger."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from orchestrator.cli.options import Json, SiteFile, path
from orchestrator.cli.output import print_json, print_warning, say, tabulate
from orchestrator.wording import counted, visible

if TYPE_CHECKING:
    from orchestrator.accounting.join import Accounting, AccountingRow, Grouping

__all__ = ["accounting"]

_NOT_RECORDED = "(not recorded)"


def accounting(
    since: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="TIME",
            help="Day or time, such as 2026-11-01 or 2026-11-01T08:00+01:00; this month if not "
            "given. Without an offset it is local time.",
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="TIME", help="Last day, or the time before which; now if not given."
        ),
    ] = None,
    by: Annotated[
        str,
        typer.Option("--by", metavar="WHAT", help="project, user, flow, coupling or run."),
    ] = "project",
    everyone: Annotated[
        bool, typer.Option("--all-users", help="The runs of all users, for operators.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Write CSV to stdout.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(parser=path, metavar="FILE.png", help="Write a plot, too: a PNG file."),
    ] = None,
    site: SiteFile = None,
    as_json: Json = False,
) -> None:
    """State what runs used: node, core and GPU hours, QPU-seconds held by Slurm's jobs, and used.

    What Slurm's accounting has is joined with the ledger of quantum jobs, and where the two differ
    is shown.
    """
    from orchestrator.accounting.periods import instant_or_day
    from orchestrator.application.accounting import accounting as account
    from orchestrator.config.errors import ConfigError

    if as_csv and as_json:
        raise ConfigError("--csv and --json both set the form; give one of them")
    if plot is not None:
        _check_plot(plot)
    found = account(
        instant_or_day(since) if since is not None else None,
        instant_or_day(until) if until is not None else None,
        by=cast("Grouping", by),
        everyone=everyone,
        site=site,
    )
    if plot is not None:
        _draw(found, plot)
    if as_json:
        print_json(asdict(found))
        return
    for note in found.notes:
        print_warning(note)
    if as_csv:
        _write_csv(found)
        for difference in found.differences:
            print_warning(f"{difference.kind}: {difference.text}")
        return
    _print(found)
    if plot is not None:
        say(f"  {plot}")


_FIGURES = {
    "runs": "runs",
    "slurm_jobs": "Slurm jobs",
    "node_hours": "node-h",
    "core_hours": "core-h",
    "gpu_hours": "GPU-h",
    "qpu_held_s": "QPU-s held",
    "quantum_jobs": "quantum jobs",
    "qpu_used_s": "QPU-s used",
}


def _print(found: Accounting) -> None:
    begin, end = (at.astimezone() for at in (found.since, found.until))
    say(f"from {begin:%Y-%m-%d %H:%M:%S%z} to {end:%Y-%m-%d %H:%M:%S%z}")
    if not found.rows:
        say("nothing was used")
    else:
        rows = [_cells(row, row.group or _NOT_RECORDED) for row in found.rows]
        if len(rows) > 1:
            rows.append(_cells(found.total, "total"))
        tabulate((found.by, *_FIGURES.values(), "charged"), rows)
    if found.differences:
        many = counted(len(found.differences), "difference")
        say(f"{many} between Slurm's accounting and the ledger:")
        tabulate(
            ("kind", "run", "user", "what"),
            [[str(one.kind), one.run, one.user, one.text] for one in found.differences],
        )


def _cells(row: AccountingRow, group: str) -> list[Any]:
    figures = [_rounded(getattr(row, name)) for name in _FIGURES]
    return [group, *figures, _charges(row) or None]


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _charges(row: AccountingRow) -> str:
    return ", ".join(f"{amount:.6g} {unit}" for unit, amount in row.charges.items())


def _write_csv(found: Accounting) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("since", "until", found.by, *_FIGURES, "charged"))
    begin, end = found.since.isoformat(), found.until.isoformat()
    for row in found.rows:
        figures = [_exact(getattr(row, name)) for name in _FIGURES]
        writer.writerow((begin, end, _text(row.group), *figures, _text(_charges(row))))


def _exact(value: Any) -> str:
    """Return a figure; a missing one is empty, which is not 0."""
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")
    return "" if value is None else str(value)


def _text(text: str) -> str:
    """Keep a spreadsheet from taking a name for a formula."""
    shown = visible(text, lines=False)
    return f"'{shown}" if shown[:1] in ("=", "+", "-", "@") else shown


def _check_plot(file: Path) -> None:
    from orchestrator.config.errors import ConfigError

    if file.suffix.lower() != ".png":
        raise ConfigError(f"--plot {file}: expected a name that ends in .png")
    if not file.parent.is_dir():
        raise ConfigError(f"--plot {file}: there is no folder {file.parent}")


def _draw(found: Accounting, file: Path) -> None:
    from orchestrator.config.errors import ConfigError
    from orchestrator.provenance.charts import BarPanel, draw_bars

    groups = [row.group or _NOT_RECORDED for row in found.rows]
    picture = draw_bars(groups, [BarPanel(title=t, series=s) for t, s in _panels(found.rows)])
    try:
        file.write_bytes(picture.png)
    except OSError as error:
        raise ConfigError(f"--plot {file} cannot be written: {error.strerror}") from None


def _panels(
    rows: Sequence[AccountingRow],
) -> list[tuple[str, dict[str, list[float | None]]]]:
    """Return the titles and values of the plot's panels; GPUs are shown where there were any."""
    panels = [
        ("core-hours", {"": [row.core_hours for row in rows]}),
        ("node-hours", {"": [row.node_hours for row in rows]}),
    ]
    if any(row.gpu_s for row in rows):
        panels.append(("GPU-hours", {"": [row.gpu_hours for row in rows]}))
    held, used = [row.qpu_held_s for row in rows], [row.qpu_used_s for row in rows]
    return [*panels, ("QPU-seconds", {"held": held, "used": used})]
