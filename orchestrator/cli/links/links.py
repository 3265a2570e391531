"""``hpcqc links serve`` and ``check``: either side of a link."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from orchestrator.cli.options import Json, SiteFile
from orchestrator.cli.output import facts, print_json, say

__all__ = ["check", "serve_link"]

_Name = Annotated[str, typer.Argument(metavar="NAME", help="Of a [link.NAME] in the site file.")]


def serve_link(name: _Name, site: SiteFile = None) -> None:
    """Let other sites in to the broker of this one, until Ctrl-C or SIGTERM.

    The link's table states listen, the port of this machine, and service, the broker behind it.
    Connections are TLS 1.3 with certificates of both sides; a key exchange that is not among the
    link's groups ends them. Each is a line of JSON on stderr, with peer and group. Every request
    needs a token of the broker: the front vouches for sites, not for users. Name the port on loopback,
    or a socket that is served as token-only:unix:PATH; a socket that knows its users is refused.
    """
    from orchestrator.application.links import front_of
    from orchestrator.broker.api.logs import LineWriter, log_entry

    log = LineWriter(sys.stderr, "json")

    def note(event: str, known: dict[str, Any]) -> None:
        level = "info" if event in ("ready", "opened", "stopped") else "warning"
        log.write(log_entry(datetime.now(UTC), level, f"link-{event}", **known))
        if event == "ready":
            say(f"link {name!r} at {known['address']}, to {known['service']}")

    try:
        front_of(name, note, site=site)()
    finally:
        log.close()


def check(name: _Name, site: SiteFile = None, as_json: Json = False) -> None:
    """Connect to the other side of a link, and show what was agreed on; exit 2 if it is refused."""
    from orchestrator.application.links import check_link

    found = check_link(name, site=site).to_plain()
    if as_json:
        print_json(found)
    else:
        facts({key.replace("_", " "): value for key, value in found.items()})
