"""``hpcqc broker serve``, its tokens and its backup: what works on the ledger's own machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from orchestrator.cli.output import print_json, say, tabulate
from orchestrator.config.environment import process_environment
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.config.private import close_to_others
from orchestrator.config.secrets import resolve_secrets
from orchestrator.config.site import Site

__all__ = [
    "TokenRequest",
    "add_token",
    "back_up",
    "default_address",
    "revoke_token",
    "serve_site",
    "tell_tokens",
    "token_file",
]

_ROLES = ("user", "operator")


def serve_site(
    site_file: Path | None,
    overrides: Sequence[str],
    listen: Sequence[str],
    log_format: str | None = None,
) -> None:
    """Serve a site's QPUs until told to stop. Raises ``LedgerError``, ``ListenError``.

    Where it listens goes to stdout, what it does as log lines to stderr.
    """
    from orchestrator.broker.api import ApiSettings, Listener, create_app, serve
    from orchestrator.broker.api.logs import LineWriter, capture_logging, log_entries, log_entry

    site = _checked_site(site_file, overrides)
    log = LineWriter(sys.stderr, _log_format(log_format))
    close_to_others(site.state_dir)
    ledger = _ledger(site)
    listeners = Listener.passed(process_environment())
    addresses = listen if listen or listeners else (default_address(site),)
    listeners += [Listener.open(address) for address in addresses]

    def tell(event: str, **facts: Any) -> None:
        log.write(log_entry(datetime.now(UTC), "info", event, site=site.name, **facts))

    try:
        broker = _broker(site, ledger)
        broker.observers.append(
            lambda commit: log.write(*log_entries(commit, broker.service.state))
        )
        capture_logging(log)
        settings = ApiSettings(
            tokens=token_file(site),
            on_ready=lambda: tell("ready", **_tell_ready(broker)),
            hosts=frozenset(site.broker.hosts),
            unix_groups=frozenset(site.broker.unix_groups),
        )
        app = create_app(broker, settings)
        say("\n".join(f"broker of site {site.name!r} at {listener.url}" for listener in listeners))
        tell("listening", urls=[listener.url for listener in listeners])
        serve(app, listeners, site.broker.proxies)
    finally:
        ledger.close()
        tell("stopped")
        log.close()


def _checked_site(site_file: Path | None, overrides: Sequence[str]) -> Site:
    from orchestrator.broker.runtime.site_rules import check_schedules

    site = load_site(site_file, overrides)
    check_schedules(site.qpus.values(), datetime.now(UTC))
    return site


def _tell_ready(broker: Any) -> dict[str, int]:
    states = [broker.status(qpu) for qpu in broker.qpus]
    missing = [state for state in states if state.state == "unavailable"]
    online = len(states) - len(missing)
    for state in missing:
        say(f"QPU {state.name} is unavailable: {state.reason}", stderr=True)
    say(f"ready: {online} of {len(states)} QPUs")
    return {"online": online, "qpus": len(states)}


def _broker(site: Site, ledger: Any) -> Any:
    from backends import registry
    from backends.api import Backend
    from orchestrator.broker.runtime.broker import Broker

    def open_backend(qpu: str) -> Backend:
        settings = site.qpu(qpu)
        options = resolve_secrets(settings.options)
        return registry.create(settings.backend, options, state_dir=site.state_dir / "qpus" / qpu)

    return Broker(
        qpus=site.qpus,
        ledger=ledger,
        clock=lambda: datetime.now(UTC),
        open_backend=open_backend,
        sharing=frozenset(site.broker.share_results),
        limits=site.broker.limits,
    )


def _log_format(asked: str | None) -> Literal["json", "text"]:
    if asked is None:
        return "text" if sys.stderr.isatty() else "json"
    if asked not in ("json", "text"):
        raise ConfigError(f"--log-format {asked!r}; expected one of: json, text")
    return "json" if asked == "json" else "text"


def default_address(site: Site) -> str:
    """Return where the service of a site listens if nothing else is said."""
    return f"unix:{site.state_dir / 'broker.sock'}"


def token_file(site: Site) -> Path:
    """Return where the tokens of a site's service are kept."""
    return site.state_dir / "tokens.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """Options of ``hpcqc broker token add``. days: valid so long; None for ever."""

    user: str
    role: str
    projects: Sequence[str]
    days: int | None


def add_token(request: TokenRequest, site_file: Path | None, *, as_json: bool) -> None:
    """Make a token and write its secret. Raises ``TokenError``."""
    from orchestrator.broker.api.tokens import TokenFile

    if request.role not in _ROLES:
        raise ConfigError(f"role {request.role!r}; expected one of: {', '.join(_ROLES)}")
    now = datetime.now(UTC)
    expires = None if request.days is None else now + timedelta(days=request.days)
    role: Literal["user", "operator"] = "operator" if request.role == "operator" else "user"
    tokens = TokenFile(token_file(load_site(site_file)))
    entry, secret = tokens.add(request.user, role, request.projects, now=now, expires_at=expires)
    if as_json:
        print_json({"id": entry.id, "user": entry.user, "token": secret})
        return
    say(secret)
    say(f"token {entry.id} of {entry.user}; it is not shown again", style="dim", stderr=True)


def tell_tokens(site_file: Path | None, *, as_json: bool) -> None:
    """Write all tokens. Raises ``TokenError``."""
    from orchestrator.broker.api.tokens import TokenFile

    entries = TokenFile(token_file(load_site(site_file))).entries()
    if as_json:
        print_json([_without_hash(entry) for entry in entries])
        return
    rows = [
        [e.id, e.user, e.role, ", ".join(e.projects), e.created_at, e.expires_at or "never"]
        for e in entries
    ]
    tabulate(("token", "user", "role", "projects", "made", "expires"), rows)


def revoke_token(site_file: Path | None, token: str, *, as_json: bool) -> None:
    """Take a token back. Raises ``TokenError``."""
    from orchestrator.broker.api.tokens import TokenFile

    entry = TokenFile(token_file(load_site(site_file))).revoke(token)
    if as_json:
        print_json(_without_hash(entry))
    else:
        say(f"token {entry.id} of {entry.user} is revoked")


def back_up(site_file: Path | None, file: Path, *, as_json: bool) -> None:
    """Copy the ledger. Raises ``LedgerError``."""
    from orchestrator.broker.ledger import Ledger, LedgerError

    site = load_site(site_file)
    where = _where(site)
    if isinstance(where, Path) and not where.exists():
        raise LedgerError(f"there is no ledger at {where}; name its folder with HPCQC_STATE_DIR")
    if not file.absolute().parent.is_dir():
        raise LedgerError(f"{file}: there is no folder {file.absolute().parent}; make it first")
    ledger = Ledger.open(where)
    try:
        ledger.backup(file)
    finally:
        ledger.close()
    size = file.stat().st_size
    if as_json:
        print_json({"file": str(file), "bytes": size})
    else:
        say(f"{file}: {size} bytes")


def _ledger(site: Site) -> Any:
    """Open the site's ledger as its one service. Raises ``LedgerHeld`` if there is another."""
    from orchestrator.broker.ledger import Ledger, LedgerError

    ledger = Ledger.open(_where(site))
    try:
        ledger.claim_service()
    except LedgerError:
        ledger.close()
        raise
    return ledger


def _where(site: Site) -> Any:
    stated = resolve_secrets(site.broker.ledger)
    return stated if stated is not None else site.state_dir / "ledger.sqlite"


def _without_hash(entry: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(replace(entry, sha256="…"))
