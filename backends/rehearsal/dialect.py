"""What a rehearsed site brings: its profile, and the protocol that its server speaks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from backends.plugins import installed, load

if TYPE_CHECKING:
    from fastapi import APIRouter

    from backends.rehearsal.device import RehearsedDevice, Simulator

__all__ = ["GROUP", "Dialect", "rehearsal_names", "rehearsed_site"]

GROUP = "hpcqc.rehearsals"


class Dialect(Protocol):
    """A site's server as its clients meet it. Registered in ``hpcqc.rehearsals`` by site.

    A dialect may also have:

    ``most_connections``: of requests at the same time. One more that submits a job is carried out
    and answered with 429; others are refused.

    ``is_public(method, path)``: whether a request needs no credential.

    ``accepts(credential)``: whether it is one that the site knows beside the rehearsal's tokens.
    """

    @property
    def profile(self) -> str | Simulator:
        """Name of the shipped device profile that is simulated, or a simulator without one."""
        ...

    @property
    def backend(self) -> str:
        """Name of the backend that speaks to the server."""
        ...

    @property
    def assumed(self) -> tuple[str, ...]:
        """Details of the site's protocol that are not public, as a sentence each."""
        ...

    def call(self, method: str, path: str) -> str | None:
        """Return the name under which faults address a request; None if none does.

        ``submit``, ``status``, ``result``, ``cancel`` and ``target`` mean the same at all sites.
        """
        ...

    def router(self, device: RehearsedDevice) -> APIRouter:
        """Return the routes of the server."""
        ...

    def error(self, status: int, reason: str) -> dict[str, Any]:
        """Return the body of an error as the vendor writes it."""
        ...

    def options(self, url: str, token_file: Path, clock_scale: float) -> Mapping[str, Any]:
        """Return what the table of the QPU in a site file needs beside the backend's name."""
        ...


def rehearsal_names() -> tuple[str, ...]:
    """Return the sites that can be rehearsed, sorted."""
    return tuple(installed(GROUP))


def rehearsed_site(name: str) -> Dialect:
    """Return a site's dialect. Raises `UnknownPlugin` or `PluginUnusable`."""
    found: Dialect = load(GROUP, name, noun="rehearsed site")
    return found
