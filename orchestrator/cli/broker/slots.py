"""``hpcqc broker publish``: free slots of a QPU, told to Slurm."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import Json, SiteFile
from orchestrator.cli.output import print_error, print_json, say

if TYPE_CHECKING:
    from orchestrator.application.slots import PublishedSlots

__all__ = ["publish"]


def publish(
    qpu: Annotated[
        str | None, typer.Argument(metavar="QPU", help="The site's default one if not given.")
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--licence", metavar="NAME@SERVER", help="The QPU's own in the site file if not given."
        ),
    ] = None,
    every: Annotated[
        float | None,
        typer.Option("--every", min=1.0, metavar="SECONDS", help="Go on until it is stopped."),
    ] = None,
    site: SiteFile = None,
    as_json: Json = False,
) -> None:
    """Tell Slurm how many slots of a QPU are free, by a remote licence; exit 1 if the broker is away.

    For operators of Slurm.
    """
    from orchestrator.application.slots import publish_slots
    from orchestrator.slurm import SlurmUnavailable

    if every is None:
        found = publish_slots(qpu, licence=licence, site=site)
        _print(found, as_json=as_json)
        raise typer.Exit(0 if found.answered else 1)
    shown = ""
    while True:
        try:
            found = publish_slots(qpu, licence=licence, site=site)
        except SlurmUnavailable as error:
            if str(error) != shown:
                print_error(shown := str(error))
        else:
            if found.changed or shown != (found.closed or ""):
                _print(found, as_json=as_json)
            shown = found.closed or ""
        time.sleep(every)


def _print(found: PublishedSlots, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(found))
        return
    why = f"; {found.closed}" if found.closed else ""
    say(f"{found.licence}: {found.taken} of {found.total} taken{why}")
