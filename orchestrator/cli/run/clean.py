"""``hpcqc clean``: what runs have stored in the state folder, and its removal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import Json, SiteFile, real
from orchestrator.cli.output import print_json, say, tabulate

if TYPE_CHECKING:
    from orchestrator.application.storage import CleanedRun

__all__ = ["clean", "size_text"]


def clean(
    days: Annotated[
        float | None,
        typer.Option(parser=real(0), metavar="N", help="Keep what was used in the last N days."),
    ] = None,
    gib: Annotated[
        float | None,
        typer.Option(
            parser=real(0), metavar="N", help="Keep N GiB in all; the oldest runs go first."
        ),
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove it; without this, it is only listed.")
    ] = False,
    site: SiteFile = None,
    as_json: Json = False,
) -> None:
    """List what runs have stored to be continued, and remove what is beyond the site's limits."""
    from orchestrator.application.storage import clean as clean_storage
    from orchestrator.config.loading import load_site

    state_dir = load_site(site).state_dir
    runs = clean_storage(keep_days=days, keep_gib=gib, remove=remove, site=site)
    if as_json:
        print_json({"state_dir": state_dir, "runs": [_document(one) for one in runs]})
        return
    if not runs:
        say(f"no run has stored anything in {state_dir}")
        return
    tabulate(("run", "holds", "last used, UTC", "limits"), [_row(one) for one in runs])
    beyond = [one.run for one in runs if one.state == ("removed" if remove else "beyond")]
    total = size_text(sum(run.size_bytes for run in beyond))
    if remove:
        say(f"removed {total}; jobs and what they cost stay in the ledger")
    elif beyond:
        say(f"{total} would go; `hpcqc clean --remove` removes it, and these runs start anew")


def size_text(size_bytes: int) -> str:
    """Return a size as people read it.

    >>> [size_text(n) for n in (0, 2048, 3 * 2**20, 5 * 2**30)]
    ['0 KiB', '2 KiB', '3 MiB', '5 GiB']
    """
    for unit, bytes_each in (("GiB", 2**30), ("MiB", 2**20)):
        if size_bytes >= bytes_each:
            return f"{size_bytes / bytes_each:.3g} {unit}"
    return f"{size_bytes / 1024:.3g} KiB"


def _row(one: CleanedRun) -> list[str]:
    fates = {"within": "stays", "beyond": "would go", "removed": "removed"}
    fate = "is running" if one.run.active else fates[one.state]
    return [one.run.id, size_text(one.run.size_bytes), f"{_used_at(one):%Y-%m-%d %H:%M}", fate]


def _used_at(one: CleanedRun) -> datetime:
    return datetime.fromtimestamp(one.run.used_at, UTC)


def _document(one: CleanedRun) -> dict[str, object]:
    return {
        "run": one.run.id,
        "size_bytes": one.run.size_bytes,
        "used_at": _used_at(one),
        "active": one.run.active,
        "removed": one.state == "removed",
        "beyond_limits": one.state != "within",
    }
