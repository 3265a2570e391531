"""The site's broker service, for requests that do not wait for one that is away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.config.secrets import resolve_secrets
from orchestrator.config.site import Site

if TYPE_CHECKING:
    from orchestrator.broker.client.http import RemoteBroker

__all__ = ["open_service", "service_at"]

_PATIENCE_S = 3.0


def open_service(site_file: Path | None) -> RemoteBroker:
    """Return a client of the site's service: the one its file names, else one on this machine.

    Raises ``ConfigError`` if there is none.
    """
    site = load_site(site_file)
    if site.broker.url is not None:
        return service_at(site, site.broker.url)
    socket = site.state_dir / "broker.sock"
    if not socket.exists():
        raise ConfigError(
            f"no broker service: [broker] url is not set and there is no {socket}; "
            "start one with 'hpcqc broker serve', or set HPCQC_BROKER_URL"
        )
    return service_at(site, f"unix:{socket}")


def service_at(site: Site, url: str) -> RemoteBroker:
    """Return a client of a service of this site."""
    from orchestrator.broker.client.http import RemoteBroker

    return RemoteBroker(url, token=resolve_secrets(site.broker.token), patience_s=_PATIENCE_S)
