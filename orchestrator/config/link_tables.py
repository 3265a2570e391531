"""`[link.NAME]` of a site file: a quantum-safe connection to another site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, Strict, StringConstraints, model_validator

from backends.links import Link
from backends.links.link import QUANTUM_SAFE
from orchestrator.config.bounds import ConfigTable
from orchestrator.config.values import Line

__all__ = ["LinkTable"]

_ADDRESS = r"^(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):[0-9]{1,5}$"
_SERVICE = r"^(unix:.+|(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):[0-9]{1,5})$"


class LinkTable(ConfigTable):
    """`[link.NAME]`: a quantum-safe connection to another site, or the port that other sites use."""

    address: Annotated[str, StringConstraints(pattern=_ADDRESS)] | None = Field(
        default=None,
        description="`HOST:PORT` of the other site; `url = 'link:NAME'` in `[broker]`, or in the options "
        "of a QPU with backend `hpcqc`, then goes there",
        examples=["'broker.hilltop.example:8443'"],
    )
    listen: Annotated[str, StringConstraints(pattern=_ADDRESS)] | None = Field(
        default=None,
        description="`HOST:PORT` at which `hpcqc links serve NAME` lets other sites in",
        examples=["'0.0.0.0:8443'"],
    )
    service: Annotated[str, StringConstraints(pattern=_SERVICE)] | None = Field(
        default=None,
        description="of a link that listens: `HOST:PORT` or token-only `unix:PATH` of the broker behind it",
        examples=["'unix:/run/hpcqc-proxy/broker.sock'"],
    )
    certificate: Annotated[Path, Strict(False)] = Field(
        description="PEM file with this site's certificate", examples=["'links/valley.pem'"]
    )
    key: Annotated[Path, Strict(False)] = Field(
        description="PEM file with its private key, which its owner alone can read",
        examples=["'links/valley.key'"],
    )
    authority: Annotated[Path, Strict(False)] = Field(
        description="PEM file with the authority that certifies the other side",
        examples=["'links/authority.pem'"],
    )
    peers: list[Line] | None = Field(
        default=None,
        description="names that the other side's certificate may bear; of a link with `address` its own "
        "name, if not given, of one that listens any that the authority certified",
        examples=["['valley']"],
    )
    groups: list[Line] = Field(
        default=list(QUANTUM_SAFE),
        description="key exchanges that are accepted; any other ends the connection, `[]` accepts all",
        examples=["['X25519MLKEM768']"],
    )

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Self:
        if (self.address is None) == (self.listen is None):
            raise ValueError(
                "give either address, to connect to another site, or listen, to let sites in"
            )
        if self.service is not None and self.listen is None:
            raise ValueError("service belongs to a link that listens")
        return self

    def named(self, name: str) -> Link:
        """Return the link of this table under its name."""
        own = () if self.address is None else (name,)
        return Link(
            name=name,
            address=self.address or "",
            certificate=self.certificate,
            key=self.key,
            authority=self.authority,
            peers=own if self.peers is None else tuple(self.peers),
            groups=tuple(self.groups),
        )
