"""The Dask cluster that the environment names: where it is, and what admits this user to it."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config.environment import process_environment
from orchestrator.config.errors import ConfigError

__all__ = ["SharedCluster", "shared_cluster"]

_OPEN = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedCluster:
    """A running cluster. credentials: this user's PEM file, None for one that asks for none."""

    address: str
    credentials: Path | None


def shared_cluster(environ: Mapping[str, str] | None = None) -> SharedCluster | None:
    """Return the cluster that ``HPCQC_DASK_ADDRESS`` names, None if it is unset or empty.

    Raises `ConfigError` for a cluster without authentication, unless ``HPCQC_DASK_CREDENTIALS``
    accepts one, and for credentials that are not there or that other users may read.
    """
    known = process_environment(environ)
    address = known.get("HPCQC_DASK_ADDRESS")
    if not address:
        return None
    named = known.get("HPCQC_DASK_CREDENTIALS")
    if named == _OPEN:
        return SharedCluster(address=address, credentials=None)
    if not address.startswith("tls://") or not named:
        raise ConfigError(
            f"HPCQC_DASK_ADDRESS names {address!r} without credentials, and whoever reaches such a "
            "cluster runs code as its owner; start it with TLS, give its tls:// address, and name "
            "your PEM file in HPCQC_DASK_CREDENTIALS (`none` accepts a cluster without)"
        )
    file = Path(named).expanduser()
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
    except OSError as error:
        raise ConfigError(
            f"HPCQC_DASK_CREDENTIALS names {named!r}, which cannot be read: {error.strerror}; name "
            "a PEM file with your certificate, its key and the authority's certificate"
        ) from error
    if mode & 0o077:
        raise ConfigError(
            f"other users may use the credentials in {named!r} (mode {mode:04o}); "
            f"run `chmod 600 {named}`"
        )
    return SharedCluster(address=address, credentials=file)
