"""``hpcqc broker token``: the tokens of the service on this machine."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import Json, SiteFile, whole
from orchestrator.cli.output import print_json, say, tabulate

if TYPE_CHECKING:
    from orchestrator.broker.api.tokens import TokenEntry

__all__ = ["token_add", "token_list", "token_revoke"]


def token_add(
    user: Annotated[str, typer.Argument(metavar="USER")],
    project: Annotated[
        list[str], typer.Option("--project", metavar="NAME", help="Repeatable; the first pays.")
    ],
    role: Annotated[str, typer.Option(metavar="ROLE", help="user or operator")] = "user",
    days: Annotated[
        int | None, typer.Option(parser=whole(1), metavar="N", help="Valid so long.")
    ] = None,
    site: SiteFile = None,
    as_json: Json = False,
) -> None:
    """Make a token; its secret is shown this once and kept only as a hash."""
    from orchestrator.application.service import token_file
    from orchestrator.config.errors import ConfigError

    if role not in ("user", "operator"):
        raise ConfigError(f"role {role!r}; expected one of: user, operator")
    now = datetime.now(UTC)
    entry, secret = token_file(site=site).add(
        user,
        "operator" if role == "operator" else "user",
        project,
        now=now,
        expires_at=None if days is None else now + timedelta(days=days),
    )
    if as_json:
        print_json({"id": entry.id, "user": entry.user, "token": secret})
        return
    say(secret)
    say(f"token {entry.id} of {entry.user}; it is not shown again", style="dim", stderr=True)


def token_list(site: SiteFile = None, as_json: Json = False) -> None:
    """List tokens, without their secrets."""
    from orchestrator.application.service import token_file

    entries = token_file(site=site).entries()
    if as_json:
        print_json([_document(entry) for entry in entries])
        return
    rows = [
        [e.id, e.user, e.role, ", ".join(e.projects), e.created_at, e.expires_at or "never"]
        for e in entries
    ]
    tabulate(("token", "user", "role", "projects", "made", "expires"), rows)


def token_revoke(
    token: Annotated[str, typer.Argument(metavar="ID")],
    site: SiteFile = None,
    as_json: Json = False,
) -> None:
    """Revoke a token; it is refused from the next request on."""
    from orchestrator.application.service import token_file

    entry = token_file(site=site).revoke(token)
    if as_json:
        print_json(_document(entry))
    else:
        say(f"token {entry.id} of {entry.user} is revoked")


def _document(entry: TokenEntry) -> dict[str, Any]:
    return asdict(entry) | {"sha256": "…"}
