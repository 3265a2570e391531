"""``hpcqc broker serve``, ``backup`` and ``verify``: the service and its ledger, on its own machine."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orchestrator.cli.options import Json, SiteFile, path
from orchestrator.cli.output import print_json, say

if TYPE_CHECKING:
    from orchestrator.config.site import Site

__all__ = ["backup", "serve", "verify"]


def serve(
    listen: Annotated[
        list[str] | None,
        typer.Option(
            "--listen",
            metavar="ADDRESS",
            help="unix:PATH, HOST:PORT (0: a free one), or fd:N for an inherited socket; with "
            "token-only: before it, a Unix socket on which users need a token. Repeatable; the "
            "sockets that systemd passes, else broker.sock in the state folder, if not given.",
        ),
    ] = None,
    site: SiteFile = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting. Repeatable."),
    ] = None,
    log_format: Annotated[
        str | None,
        typer.Option(
            "--log-format",
            metavar="FORMAT",
            help="json or text, to stderr; text on a terminal and json elsewhere if not given.",
        ),
    ] = None,
) -> None:
    """Serve the site's QPUs until Ctrl-C or SIGTERM; running tasks are found again afterwards."""
    from orchestrator.broker.api import ApiSettings, Listener, create_app, serve
    from orchestrator.broker.api.logs import LineWriter, capture_logging, log_entries, log_entry
    from orchestrator.broker.runtime.site_rules import check_schedules
    from orchestrator.config.environment import process_environment
    from orchestrator.config.loading import load_site
    from orchestrator.config.private import close_to_others

    found = load_site(site, setting or ())
    check_schedules(found.qpus.values(), datetime.now(UTC))
    log = LineWriter(sys.stderr, _log_format(log_format))
    close_to_others(found.state_dir)
    ledger = _ledger(found)
    listeners = Listener.passed(process_environment())
    own = f"unix:{found.state_dir / 'broker.sock'}"
    addresses = listen or (() if listeners else (own,))
    listeners += [Listener.open(address) for address in addresses]

    def log_event(event: str, **facts: Any) -> None:
        log.write(log_entry(datetime.now(UTC), "info", event, site=found.name, **facts))

    try:
        broker = _broker(found, ledger)
        broker.observers.append(lambda commit: log.write(*log_entries(commit, broker.events.state)))
        capture_logging(log)
        settings = ApiSettings(
            tokens=found.state_dir / "tokens.json",
            on_ready=lambda: log_event("ready", **_print_ready(broker)),
            hosts=frozenset(found.broker.hosts),
            unix_groups=frozenset(found.broker.unix_groups),
        )
        app = create_app(broker, settings)
        say("\n".join(f"broker of site {found.name!r} at {listener.url}" for listener in listeners))
        log_event("listening", urls=[listener.url for listener in listeners])
        serve(app, listeners, found.broker.proxies)
    finally:
        ledger.close()
        log_event("stopped")
        log.close()


def backup(
    file: Annotated[Path, typer.Argument(parser=path, metavar="FILE", help="Where the copy goes.")],
    site: SiteFile = None,
    as_json: Json = False,
) -> None:
    """Copy the ledger to a file, consistently, also while the service runs."""
    from orchestrator.application.service import back_up

    size = back_up(file, site=site).stat().st_size
    if as_json:
        print_json({"file": str(file), "bytes": size})
    else:
        say(f"{file}: {size} bytes")


def verify(
    file: Annotated[
        Path | None,
        typer.Argument(
            parser=path, metavar="[FILE]", help="A copy of a ledger; the site's own if not given."
        ),
    ] = None,
    site: SiteFile = None,
    as_json: Json = False,
) -> None:
    """Check that the ledger, or a copy of it, is undamaged and can be read."""
    from orchestrator.application.service import verify_ledger
    from orchestrator.wording import counted

    runs = verify_ledger(file, site=site)
    if as_json:
        print_json({"file": None if file is None else str(file), "runs": runs})
    else:
        say(f"{'the ledger' if file is None else file} is undamaged: {counted(runs, 'run')}")


def _print_ready(broker: Any) -> dict[str, int]:
    states = [broker.status(qpu) for qpu in broker.qpus]
    missing = [state for state in states if state.state == "unavailable"]
    online = len(states) - len(missing)
    for state in missing:
        say(f"QPU {state.name} is unavailable: {state.reason}", stderr=True)
    say(f"ready: {online} of {len(states)} QPUs")
    return {"online": online, "qpus": len(states)}


def _broker(site: Site, ledger: Any) -> Any:
    from orchestrator.broker.runtime.broker import Broker
    from orchestrator.resources import open_backend, slurm_allocations

    return Broker(
        qpus=site.qpus,
        ledger=ledger,
        clock=lambda: datetime.now(UTC),
        open_backend=partial(open_backend, site),
        sharing=frozenset(site.broker.share_results),
        labels=site.labels_by_project,
        limits=site.broker.limits,
        allocations=slurm_allocations(site),
    )


def _log_format(asked: str | None) -> Literal["json", "text"]:
    if asked is None:
        return "text" if sys.stderr.isatty() else "json"
    from orchestrator.config.errors import ConfigError

    if asked not in ("json", "text"):
        raise ConfigError(f"--log-format {asked!r}; expected one of: json, text")
    return "json" if asked == "json" else "text"


def _ledger(site: Site) -> Any:
    """Open the site's ledger as its one service. Raises ``LedgerHeld`` if there is another."""
    from orchestrator.application.service import service_ledger
    from orchestrator.broker.ledger import Ledger, LedgerError

    ledger = Ledger.open(service_ledger(site))
    try:
        ledger.claim_service()
    except LedgerError:
        ledger.close()
        raise
    return ledger
