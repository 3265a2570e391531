"""``hpcqc doctor``: whether this machine and its site can run flows."""

from __future__ import annotations

import typer

from orchestrator.cli.options import Json, SiteFile
from orchestrator.cli.output import open_console, print_json, tabulate

__all__ = ["doctor"]


def doctor(site: SiteFile = None, as_json: Json = False) -> None:
    """Check the installation, the machine and the site; exit 1 if something is broken."""
    from orchestrator.cli.errors import FAILED
    from orchestrator.doctor import diagnose

    checks = diagnose(site)
    broken = [check for check in checks if check.state == "broken"]
    if as_json:
        print_json({"ok": not broken, "checks": checks})
    else:
        tabulate(("", "what", "found"), [[one.state, one.name, one.detail] for one in checks])
        console = open_console()
        if broken:
            console.print(f"{len(broken)} broken", style="bold red")
        else:
            console.print("nothing is broken", style="green")
    raise typer.Exit(FAILED if broken else 0)
