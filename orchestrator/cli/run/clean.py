"""``hpcqc clean``: what runs have stored in the state folder, and the end of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.cli.output import print_json, say, tabulate
from orchestrator.config.loading import load_site
from orchestrator.retention import StoredRun, remove_stored, runs_to_remove, stored_runs

__all__ = ["CleanRequest", "clean_and_tell", "size_text"]

_KEEP_DAYS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanRequest:
    """What the user asked for. Limits that are not given are the site's, else 30 days."""

    site_file: Path | None = None
    keep_days: float | None = None
    keep_gib: float | None = None
    remove: bool = False
    as_json: bool = False


def clean_and_tell(request: CleanRequest) -> None:
    """Write what every run has stored, and remove what is beyond the limits if that is wanted."""
    site = load_site(request.site_file)
    keep_days, keep_gib = request.keep_days, request.keep_gib
    if keep_days is None and keep_gib is None:
        keep_days, keep_gib = site.keep_days, site.keep_gib
    if keep_days is None and keep_gib is None:
        keep_days = _KEEP_DAYS
    runs = stored_runs(site.state_dir)
    beyond = runs_to_remove(runs, time.time(), keep_days=keep_days, keep_gib=keep_gib)
    removed = [run for run in beyond if request.remove and remove_stored(site.state_dir, run)]
    fates = {
        run.id: "removed" if run in removed else "would go" if run in beyond else "stays"
        for run in runs
    }
    if request.as_json:
        print_json({"state_dir": site.state_dir, "runs": [_document(r, fates[r.id]) for r in runs]})
        return
    if not runs:
        say(f"no run has stored anything in {site.state_dir}")
        return
    rows = [
        [run.id, size_text(run.size_bytes), f"{_used_at(run):%Y-%m-%d %H:%M}", _fate(run, fates)]
        for run in runs
    ]
    tabulate(("run", "holds", "last used, UTC", "limits"), rows)
    total = size_text(sum(run.size_bytes for run in (removed if request.remove else beyond)))
    if request.remove:
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


def _fate(run: StoredRun, fates: dict[str, str]) -> str:
    return "is running" if run.active else fates[run.id]


def _used_at(run: StoredRun) -> datetime:
    return datetime.fromtimestamp(run.used_at, UTC)


def _document(run: StoredRun, fate: str) -> dict[str, object]:
    return {
        "run": run.id,
        "size_bytes": run.size_bytes,
        "used_at": _used_at(run),
        "active": run.active,
        "removed": fate == "removed",
        "beyond_limits": fate != "stays",
    }
