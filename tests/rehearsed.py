"""Rehearsed sites for tests: a server of a site, reached by real HTTP, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from orchestrator.application.rehearse import Rehearsal, prepare_rehearsal
from orchestrator.broker.api.serving import Connections, web_server
from orchestrator.config.loading import load_site
from orchestrator.config.secrets import resolve_secrets
from tests.patience import PATIENCE_S


@dataclass(frozen=True)
class RehearsedSite:
    """A running server, and its control routes."""

    rehearsal: Rehearsal
    control: httpx.Client

    @property
    def options(self) -> dict[str, Any]:
        """Options of the backend that reaches it."""
        (qpu,) = load_site(self.rehearsal.site_file).qpus.values()
        return resolve_secrets(qpu.options)

    def meter(self) -> dict[str, Any]:
        return self.control.get("meter").raise_for_status().json()

    def misbehave(self, *faults: str) -> None:
        self.control.post("faults", json=list(faults)).raise_for_status()

    def behave(self) -> None:
        self.misbehave()

    def calibrate(self) -> str:
        return self.control.post("calibration").raise_for_status().json()["calibration"]


@contextmanager
def rehearsed(
    site: str, folder: Path, *, clock_scale: float = 0.0, faults: Sequence[str] = ()
) -> Iterator[RehearsedSite]:
    """Serve a site while the block runs."""
    prepared = prepare_rehearsal(site, clock_scale=clock_scale, faults=faults, folder=folder)
    server = web_server(prepared.app, Connections(most=256))
    sockets = [prepared.listener.socket]
    thread = threading.Thread(target=server.run, kwargs={"sockets": sockets})
    thread.start()
    token = (prepared.folder / "control").read_text(encoding="utf-8")
    control = httpx.Client(
        base_url=f"{prepared.url}/rehearsal/",
        headers={"Authorization": f"Bearer {token}"},
        timeout=PATIENCE_S,
        trust_env=False,
    )
    try:
        yield RehearsedSite(prepared, control)
    finally:
        control.close()
        server.should_exit = True
        thread.join()
        prepared.listener.close()
        prepared.lock.close()
