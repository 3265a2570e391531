"""The key pair of one Dask cluster: whoever has it may use the cluster, nobody else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config.private import write_private

if TYPE_CHECKING:
    from distributed import Security

__all__ = ["DaskCredentials", "security_from"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DaskCredentials:
    """A key and the certificate that it signed itself, both as PEM text.

    Scheduler, nannies, workers and clients of one cluster share them, and accept only a peer that
    has them: TLS with authentication of both sides.
    """

    certificate: str
    key: str

    @staticmethod
    def make() -> DaskCredentials:
        """Return a new pair, valid for a year."""
        from distributed import Security

        made = Security.temporary()
        return DaskCredentials(certificate=made.tls_ca_file, key=made.tls_client_key)

    def security(self) -> Security:
        """Return Dask's form of the pair, for every role."""
        from distributed import Security

        pair = {
            f"tls_{role}_{part}": value
            for role in ("client", "scheduler", "worker")
            for part, value in (("cert", self.certificate), ("key", self.key))
        }
        return Security(require_encryption=True, tls_ca_file=self.certificate, **pair)

    def write(self, path: Path) -> None:
        """Replace the file, readable by its owner alone."""
        write_private(path, self.certificate + self.key)


def security_from(path: Path) -> Security:
    """Return Dask's form of a client's PEM file: its certificate, its key, the authority's."""
    from distributed import Security

    file = str(path)
    return Security(require_encryption=True, tls_ca_file=file, tls_client_cert=file)
