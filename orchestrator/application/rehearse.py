"""Sites rehearsed on this machine: their servers, and site files to reach them with."""

from __future__ import annotations

import fcntl
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from backends.http_rules import is_loopback
from backends.site_options import SITE_OPTIONS
from orchestrator.config.environment import state_dir
from orchestrator.config.errors import ConfigError
from orchestrator.config.private import close_to_others, write_private

if TYPE_CHECKING:
    from fastapi import FastAPI

    from orchestrator.broker.api.serving import Listener

__all__ = ["Rehearsal", "prepare_rehearsal", "serve_rehearsal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """A server that listens and is not served yet.

    folder: private; has the site file, the token file and ``control``, the token of the routes
    below ``/rehearsal/``. assumed: what of the site's protocol is not public, in sentences.
    lock: keeps other servers from the folder until it is closed.
    """

    site: str
    url: str
    folder: Path
    site_file: Path
    assumed: tuple[str, ...]
    app: FastAPI
    listener: Listener
    lock: IO[str]


def prepare_rehearsal(
    site: str,
    *,
    listen: str = "127.0.0.1:0",
    clock_scale: float = 1.0,
    faults: Sequence[str] = (),
    folder: Path | str | None = None,
) -> Rehearsal:
    """Prepare the server of a site over a simulated device, and a site file for its users.

    Args:
        site: Name of a site; ``backends.rehearsal.rehearsal_names`` lists them.
        listen: HOST:PORT on this machine's loopback; port 0 takes a free one.
        clock_scale: Seconds that pass for each second of the device; 0 never waits.
        faults: Each as ``KIND:CALL`` or ``KIND:CALL:NUMBER,NUMBER``; see `parse_fault`.
        folder: For its files; one in the state folder if None.

    Returns:
        The server; its socket listens already.

    Raises:
        ConfigError: The address is not of this machine's loopback, or another server uses the folder.
        ValueError: There is no such site, or a fault is not one.
    """
    from backends.rehearsal import RehearsedDevice, parse_fault, rehearsed_site
    from backends.rehearsal.app import create_rehearsal
    from backends.rehearsal.faults import FaultScript
    from backends.rehearsal.tokens import RehearsedTokens
    from orchestrator.broker.api.serving import Listener

    dialect = rehearsed_site(site)
    script = FaultScript(parse_fault(text) for text in faults)
    host = listen.rpartition(":")[0]
    if not is_loopback(host):
        raise ConfigError(
            f"cannot rehearse at {listen!r}: other machines could reach it; give 127.0.0.1:PORT"
        )
    place = Path(folder) if folder is not None else state_dir() / "rehearsals" / site
    close_to_others(place)
    lock = _locked(place, site)
    device = RehearsedDevice(dialect.profile, folder=place, clock_scale=clock_scale)
    lifetime_s = device.credential_lifetime_s
    token_file, control = place / "token.json", secrets.token_urlsafe(32)
    tokens = RehearsedTokens(
        token_file,
        lifetime_s=None if lifetime_s is None else lifetime_s * (clock_scale or 1.0),
        clock=time.time,
    )
    write_private(place / "control", control)
    app = create_rehearsal(dialect, device, tokens, faults=script, control_token=control)
    listener = Listener.open(listen)
    options = dict(dialect.options(listener.url, token_file.absolute(), clock_scale))
    site_file = place / "site.toml"
    write_private(site_file, _site_file(site, dialect.backend, options))
    return Rehearsal(
        site=site,
        url=listener.url,
        folder=place,
        site_file=site_file,
        assumed=dialect.assumed,
        app=app,
        listener=listener,
        lock=lock,
    )


def _locked(folder: Path, site: str) -> IO[str]:
    """Keep other servers from writing over the files of this one. Raises `ConfigError`."""
    path = folder / "lock"
    path.touch(mode=0o600)
    file = path.open("r+", encoding="ascii")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ConfigError(
            f"{site} is being rehearsed with the files in {folder}; use its site file, "
            f"{folder / 'site.toml'}, or give another folder with --folder"
        ) from None
    return file


def serve_rehearsal(rehearsal: Rehearsal) -> None:
    """Serve until SIGINT or SIGTERM."""
    from orchestrator.broker.api.serving import serve

    serve(rehearsal.app, [rehearsal.listener])


def _site_file(site: str, backend: str, options: dict[str, object]) -> str:
    """Return a site file with one QPU. JSON's texts and numbers are TOML's, too."""
    direct = {one.name: options.pop(one.name) for one in SITE_OPTIONS if one.name in options}
    lines = [
        f"{name} = {json.dumps(value)}" for name, value in {"backend": backend, **direct}.items()
    ]
    return "\n".join(
        [
            "[site]",
            f"name = {json.dumps(f'{site}-rehearsed')}",
            "",
            f"[qpu.{site}]",
            *lines,
            f"options = {_toml(options)}",
            "",
        ]
    )


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)
