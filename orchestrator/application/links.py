"""Links of a site: the front that serves one, a look at the other side, certificates for a federation."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.links import LinkError, LinkFacts
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site

if TYPE_CHECKING:
    from orchestrator.links.certificates import SiteCertificate

__all__ = ["check_link", "front_of", "make_certificates"]

_LONGEST_S = 10.0
_MOST_DAYS = 3650


def make_certificates(
    folder: Path | str, sites: Sequence[str], *, days: int = 90
) -> list[SiteCertificate]:
    """Make a certificate and a private key for each site of a test federation.

    The folder's own authority signs them; it is made if there is none. Nothing is overwritten.

    Args:
        folder: Where the files go; it is made if need be.
        sites: Names of the sites, as `peers` of their links have them.
        days: How long the certificates are valid.

    Returns:
        The files of each site, in the order of the names.

    Raises:
        LinkError: A name is none, a file exists already, or the authority has no key.
    """
    from orchestrator.links.certificates import certify

    if not 1 <= days <= _MOST_DAYS:
        raise LinkError(f"{days} days; give a number from 1 to {_MOST_DAYS}")
    return certify(Path(folder).expanduser(), sites, days=days, now=datetime.now(UTC))


def check_link(name: str, *, site: Path | str | None = None) -> LinkFacts:
    """Connect to the other side of a link once, send nothing, and return what was agreed on.

    Args:
        name: A link of the site file with an address.
        site: Path of a site file; None for the one that the usual lookup finds.

    Returns:
        The name in the other side's certificate and its end, the key exchange, protocol and cipher.

    Raises:
        LinkError: The other side does not answer, or one side does not accept the other.
        ConfigError: The site file is wrong, or has no such link.
    """
    import httpcore

    from backends.links.streams import dial

    found = load_site(site)
    link = found.link_of(f"link:{name}")
    if link is None:  # pragma: no cover - the scheme is ours
        raise ConfigError(f"no link {name!r}")
    try:
        stream, facts = dial(link, _LONGEST_S)
    except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
        raise LinkError(
            f"link {name!r}: {link.address} does not answer ({error}); start 'hpcqc links serve' "
            "there, or correct the address"
        ) from None
    try:
        stream.write(_QUESTION, _LONGEST_S)
        stream.read(1, _LONGEST_S)  # it refuses this side's certificate only now
    except (httpcore.ReadError, httpcore.WriteError, httpcore.ReadTimeout) as error:
        raise LinkError(f"link {name!r}: {link.address} ended the connection: {error}") from None
    finally:
        stream.close()
    return facts


# Any broker answers it, without a token.
_QUESTION = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def front_of(
    name: str, on_event: Callable[[str, dict[str, Any]], None], *, site: Path | str | None = None
) -> Callable[[], None]:
    """Open the port of a link that listens; return a function that serves it until it is signalled.

    Args:
        name: A link of the site file with ``listen`` and ``service``.
        on_event: Called with the name of an event and its facts.
        site: Path of a site file; None for the one that the usual lookup finds.

    Raises:
        LinkError: The port or a file cannot be used.
        ConfigError: The site file is wrong, or has no such link.
    """
    from backends.links.tls import tls_context
    from orchestrator.links.front import Front, Service, open_port

    found = load_site(site)
    table = found.link(name)
    if table.listen is None or table.service is None:
        raise ConfigError(
            f"[link.{name}] of {found.source} has no listen with a service; give both, such as "
            "listen = '0.0.0.0:8443' and service = '127.0.0.1:8765'"
        )
    link, service = table.named(name), Service(address=table.service)
    tls_context(link)  # what is wrong with its files is said before the port is open
    listening = open_port(table.listen)
    address = listening.getsockname()
    front = Front(link=link, service=service, on_event=on_event)
    facts = {
        "link": name,
        "address": f"{address[0]}:{address[1]}",
        "service": table.service,
        "groups": list(link.groups),
        "certificate_until": _end(link.certificate),
    }

    def serve() -> None:
        async def until_signalled() -> None:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, lambda: task and task.cancel())
            try:
                await front.serve(listening, lambda: on_event("ready", facts))
            except asyncio.CancelledError:
                on_event("stopped", {"link": name})

        asyncio.run(until_signalled())

    return serve


def _end(certificate: Path) -> str:
    from orchestrator.links.certificates import expiry_of

    return expiry_of(certificate).isoformat(timespec="seconds")
