"""The site's broker service, as a process that asks and does not wait reaches it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config import ConfigError, Site, load_site, resolve_secrets

if TYPE_CHECKING:
    from orchestrator.broker.client.admin import OperatorClient

__all__ = ["open_service"]


def open_service(site_file: Path | None) -> OperatorClient:
    """Return the client of the site's service, to be used as a context. Raises ``ConfigError``."""
    from orchestrator.broker.client.admin import OperatorClient

    site = load_site(site_file)
    return OperatorClient(_url(site), token=resolve_secrets(site.broker.token))


def _url(site: Site) -> str:
    """Return the service of the site: the one its file names, else one on this machine."""
    if site.broker.url is not None:
        return site.broker.url
    socket = site.state_dir / "broker.sock"
    if not socket.exists():
        raise ConfigError(
            f"no broker service: [broker] url is not set and there is no {socket}; "
            "start one with 'hpcqc broker serve', or set HPCQC_BROKER_URL"
        )
    return f"unix:{socket}"
