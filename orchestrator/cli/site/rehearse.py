"""``hpcqc rehearse``: a site's server on this machine, over a simulated device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import path
from orchestrator.cli.output import say

__all__ = ["rehearse"]


def rehearse(
    site: Annotated[str, typer.Argument(metavar="SITE", help="The site, such as vlq.")],
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="On loopback; port 0: a free one.")
    ] = "127.0.0.1:0",
    clock: Annotated[
        float,
        typer.Option(
            "--clock",
            metavar="SECONDS",
            min=0.0,
            help="Seconds that pass for each second of the device; 0 never waits.",
        ),
    ] = 1.0,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            "--fault",
            metavar="KIND:CALL[:NUMBER,…]",
            help="A fault of requests, such as lost:submit:2 or 429:status. Repeatable.",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            parser=path,
            metavar="DIR",
            help="For the site file and tokens; one in the state folder if not given.",
        ),
    ] = None,
) -> None:
    """Serve a simulated device with a site's own protocol until Ctrl-C; nothing leaves this machine."""
    from orchestrator.application.rehearse import prepare_rehearsal, serve_rehearsal

    prepared = prepare_rehearsal(
        site, listen=listen, clock_scale=clock, faults=fault or (), folder=folder
    )
    say(f"{site} rehearsed at {prepared.url}")
    say(f"site file: {prepared.site_file}")
    for words in prepared.assumed:
        say(f"assumed: {words}")
    serve_rehearsal(prepared)
