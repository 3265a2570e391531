"""What a link is, and what is known of one that is up (pure)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "QUANTUM_SAFE",
    "SCHEME",
    "Link",
    "LinkError",
    "LinkFacts",
    "LinkRefused",
    "host_and_port",
    "link_name",
]

# X25519 beside ML-KEM-768: who records a connection must break both to read it later
# (draft-ietf-tls-ecdhe-mlkem, group 4588).
QUANTUM_SAFE = ("X25519MLKEM768",)
SCHEME = "link:"
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(?P<port>[0-9]{1,5})")


class LinkError(ValueError):
    """A link cannot be used as it is stated; the message says what is wrong and what to do."""


class LinkRefused(LinkError):
    """One side does not accept the other: its certificate, its name or its key exchange."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One side of a link.

    address: ``HOST:PORT`` of the other side; empty for a link that only listens. certificate, key,
    authority: files in PEM. peers: names of which the other side's certificate must bear one; none
    for any that the authority certified. groups: key exchanges that are accepted; none for any.
    """

    name: str
    certificate: Path
    key: Path
    authority: Path
    address: str = ""
    peers: tuple[str, ...] = ()
    groups: tuple[str, ...] = QUANTUM_SAFE

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON types, for a backend's options."""
        return {
            "name": self.name,
            "certificate": str(self.certificate),
            "key": str(self.key),
            "authority": str(self.authority),
            "address": self.address,
            "peers": list(self.peers),
            "groups": list(self.groups),
        }

    @classmethod
    def from_plain(cls, stated: Mapping[str, Any]) -> Link:
        """Return the link of such JSON types. Raises `LinkError`."""
        try:
            return cls(
                name=stated["name"],
                certificate=Path(stated["certificate"]),
                key=Path(stated["key"]),
                authority=Path(stated["authority"]),
                address=stated["address"],
                peers=tuple(stated["peers"]),
                groups=tuple(stated["groups"]),
            )
        except (KeyError, TypeError) as error:
            raise LinkError(
                f"link {stated!r:.200} is not one; name a [link.NAME] of the site file ({error})"
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFacts:
    """A link that is up. peer: name in the other side's certificate, which ends at ``valid_until``."""

    link: str
    peer: str
    group: str
    protocol: str
    cipher: str
    valid_until: str

    def to_plain(self) -> dict[str, str]:
        """Return it as JSON types, for records and logs."""
        return {
            "link": self.link,
            "peer": self.peer,
            "group": self.group,
            "protocol": self.protocol,
            "cipher": self.cipher,
            "valid_until": self.valid_until,
        }


def link_name(url: str) -> str | None:
    """Return the name in ``link:NAME``, None for any other URL.

    >>> link_name("link:hilltop"), link_name("http://hilltop")
    ('hilltop', None)
    """
    return url.removeprefix(SCHEME) if url.startswith(SCHEME) else None


def host_and_port(address: str) -> tuple[str, int]:
    """Return both parts of ``HOST:PORT``. Raises `LinkError`.

    >>> host_and_port("[::1]:8443")
    ('::1', 8443)
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found["port"]) > 65535:
        raise LinkError(f"address {address!r}; give HOST:PORT, such as 'broker.site:8443'")
    return found["host"].strip("[]"), int(found["port"])
