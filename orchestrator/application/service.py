"""The site's broker service: its client, its tokens, its ledger and its statements."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.config.secrets import resolve_secrets
from orchestrator.config.site import Site

if TYPE_CHECKING:
    from orchestrator.broker.api.tokens import TokenFile
    from orchestrator.broker.client.http import RemoteBroker
    from orchestrator.broker.client.status import QpuReadiness
    from orchestrator.broker.core.budgets import StatementLine

__all__ = [
    "back_up",
    "check_project",
    "has_service",
    "open_service",
    "qpu_facts",
    "service_at",
    "service_ledger",
    "statement",
    "token_file",
    "verify_ledger",
]

_PATIENCE_S = 3.0
_MONTH = re.compile(r"2[0-9]{3}-(0[1-9]|1[0-2])")


def open_service(*, site: Path | str | None = None) -> RemoteBroker:
    """Return a client of the site's broker service: the one that the site names, else this machine's.

    Its methods are what ``hpcqc broker`` does: ``health``, ``qpus``, ``queue``, ``drain``,
    ``resume``, ``cancel_named``, ``resolve``, ``projects``, ``limit_project``. Each may raise
    `BrokerRefused` and, after three seconds, `BrokerUnreachable`. ``close`` it at the end.

    Args:
        site: Path of a site file; None for the one that the usual lookup finds.

    Returns:
        The client; its first call connects.

    Raises:
        ConfigError: The site file is wrong, or there is no broker service.
    """
    found = load_site(site)
    if found.broker.url is not None:
        return service_at(found, found.broker.url)
    socket = found.state_dir / "broker.sock"
    if not socket.exists():
        raise ConfigError(
            f"no broker service: [broker] url is not set and there is no {socket}; "
            "start one with 'hpcqc broker serve', or set HPCQC_BROKER_URL"
        )
    return service_at(found, f"unix:{socket}")


def has_service(site: Site) -> bool:
    """Return whether the site names a broker service, or one of its own may run on this machine."""
    return site.broker.url is not None or (site.state_dir / "broker.sock").exists()


def qpu_facts(site: Site, qpu: str) -> QpuReadiness | str:
    """Return a QPU's status, capacity and readiness as the site's service has them, or why not.

    Args:
        site: A site; its broker service is asked, or else the one that runs on this machine.
        qpu: Name of the QPU there.

    Returns:
        The three facts with their sources; a sentence where nobody can be asked for them.
    """
    from orchestrator.broker.client.http import BrokerRefused, BrokerUnreachable

    if not has_service(site):
        return "no broker service watches it; start one with 'hpcqc broker serve'"
    try:
        socket = site.state_dir / "broker.sock"
        with closing(service_at(site, site.broker.url or f"unix:{socket}")) as broker:
            return broker.readiness(qpu)
    except (BrokerRefused, BrokerUnreachable, ConfigError) as error:
        return str(error)


def service_at(site: Site, url: str) -> RemoteBroker:
    """Return a client of a service of this site, which does not wait long for it."""
    from orchestrator.broker.client.http import RemoteBroker

    return RemoteBroker(
        url,
        token=resolve_secrets(site.broker.token),
        patience_s=_PATIENCE_S,
        link=site.link_of(url),
    )


def token_file(*, site: Path | str | None = None) -> TokenFile:
    """Return the tokens of the broker service that runs on this machine.

    Args:
        site: Path of a site file; None for the one that the usual lookup finds.

    Returns:
        The file of tokens, with ``entries``, ``add`` and ``revoke``. It is read when it is used.

    Raises:
        ConfigError: The site file is wrong.
    """
    from orchestrator.broker.api.tokens import TokenFile

    return TokenFile(load_site(site).state_dir / "tokens.json")


def back_up(file: Path | str, *, site: Path | str | None = None) -> Path:
    """Copy the site's ledger to a file, consistently, also while the broker service runs.

    Args:
        file: Where the copy goes; its folder must exist.
        site: Path of a site file; None for the one that the usual lookup finds.

    Returns:
        Path of the copy.

    Raises:
        LedgerError: There is no ledger, or it cannot be copied there.
        ConfigError: The site file is wrong.
    """
    from orchestrator.broker.ledger import Ledger, LedgerError

    source, copy = service_ledger(load_site(site)), Path(file).expanduser()
    if isinstance(source, Path) and not source.exists():
        raise LedgerError(f"there is no ledger at {source}; name its folder with HPCQC_STATE_DIR")
    if not copy.absolute().parent.is_dir():
        raise LedgerError(f"{copy}: there is no folder {copy.absolute().parent}; make it first")
    with closing(Ledger.open(source)) as ledger:
        ledger.backup(copy)
    return copy


def verify_ledger(file: Path | str | None = None, *, site: Path | str | None = None) -> int:
    """Check that a ledger is undamaged and that everything in it can be read.

    Blocks for about 10 ms a megabyte, and as long as a broker takes to start with it.

    Args:
        file: A copy that `back_up` made, which stays as it is; None for the site's own ledger, also
            while the broker service runs.
        site: Path of a site file; None for the one that the usual lookup finds.

    Returns:
        How many runs are in it; all runs of a broker service count as one.

    Raises:
        LedgerError: There is no ledger, it is damaged, or this version cannot read it.
        ConfigError: The site file is wrong.
    """
    from orchestrator.broker.ledger import LedgerError
    from orchestrator.broker.ledger.place import copy_file

    source = service_ledger(load_site(site)) if file is None else Path(file).expanduser()
    if isinstance(source, Path) and not source.is_file():
        raise LedgerError(f"there is no ledger at {source}; name its folder with HPCQC_STATE_DIR")
    if file is None:
        return _verified_runs(source)
    with TemporaryDirectory(prefix="hpcqc-verify-") as folder:  # to open a copy may upgrade it
        temporary = Path(folder) / "ledger.sqlite"
        try:
            copy_file(source, temporary)
            return _verified_runs(temporary)
        except LedgerError as error:
            raise LedgerError(str(error).replace(str(temporary), str(source))) from error


def _verified_runs(source: Any) -> int:
    from orchestrator.broker.ledger import Ledger

    with closing(Ledger.open(source)) as ledger:
        ledger.verify()
        scopes = ledger.runs()
        for scope in scopes:
            ledger.restore(scope)
    return len(scopes)


def service_ledger(site: Site) -> Any:
    """Return the path or the URL of the ledger that the site's broker service writes."""
    stated = resolve_secrets(site.broker.ledger)
    return stated if stated is not None else site.state_dir / "ledger.sqlite"


def statement(
    project: str | None = None, month: str | None = None, *, site: Path | str | None = None
) -> list[StatementLine]:
    """Return what projects were charged in a month, by QPU and unit.

    Args:
        project: This project alone; None for all that the user may see.
        month: Year and month in UTC, such as ``"2026-11"``; None for the present one.
        site: Path of a site file; None for the one that the usual lookup finds.

    Returns:
        A line for each project, QPU and unit, sorted by them.

    Raises:
        ConfigError: The site has no broker service, or there is no such project or month.
        BrokerUnreachable: The service does not answer.
        BrokerRefused: The service refuses, for want of a valid token, for example.
    """
    if month is not None and not _MONTH.fullmatch(month):
        raise ConfigError(f"month {month!r}; give a year and a month, such as 2026-11")
    with closing(open_service(site=site)) as broker:
        if project is not None:
            check_project(project, (use.project for use in broker.projects()))
        return broker.statement(project, month)


def check_project(project: str, known: Iterable[str]) -> None:
    """Raise ``ConfigError`` for a project that is not among the known ones."""
    names = list(known)
    if project not in names:
        raise ConfigError(
            f"no project {project!r} that this user may see; there are: "
            f"{', '.join(names) or 'none'}"
        )
