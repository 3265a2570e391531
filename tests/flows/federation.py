"""A federation of three sites in this process, which are watched, or do wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from backends.links import Link
from flows._federated.coordinator import Coordinator
from flows._federated.member import Member
from flows._federated.serving import serving
from orchestrator.links.certificates import certify
from orchestrator.links.front import open_port

SITES = ("one", "three", "two")


class Watched(Member):
    """A member that keeps what it is asked and what it answers, and may answer otherwise."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.said: list[tuple[str, Mapping[str, Any], dict[str, Any]]] = []
        self.instead: Callable[[str, dict[str, Any]], dict[str, Any]] = lambda _phase, said: said

    def answer(self, phase, message):
        answered = self.instead(phase, super().answer(phase, message))
        self.said.append((phase, message, answered))
        return answered


class Hall:
    """Sites that serve in this process, over real links, and a coordinator's links to them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        certify(folder, [*SITES, "coordinator", "stranger"], days=2, now=datetime.now(UTC))
        self.folder = folder
        self.members: dict[str, Watched] = {}
        self.links: dict[str, Link] = {}  # of the coordinator
        self.own: dict[str, Link] = {}
        self.vectors: dict[str, Any] = {}
        for site in SITES:
            own = self._link(folder, site, site, ("coordinator",))
            member = Watched(own, name=site, members=SITES, least=2, work=self._work(site))
            opened = open_port("127.0.0.1:0")
            port = opened.getsockname()[1]
            stack.enter_context(serving(member, own, opened, lambda _event, _facts: None))
            self.members[site] = member
            self.own[site] = own
            far = self._link(folder, site, "coordinator", (site,))
            self.links[site] = Link.from_plain({**far.to_plain(), "address": f"127.0.0.1:{port}"})

    def _work(self, site: str) -> Callable[[Mapping[str, Any]], Any]:
        return lambda _task: self.vectors[site]

    def _link(self, folder: Path, name: str, holder: str, peers: tuple[str, ...]) -> Link:
        return Link(
            name=name,
            certificate=folder / f"{holder}.pem",
            key=folder / f"{holder}.key",
            authority=folder / "authority.pem",
            peers=peers,
        )

    def reset(self) -> None:
        """Let the sites be as they were at first."""
        self.begin_anew()
        self.vectors.update({site: np.arange(6) * 0.25 - at for at, site in enumerate(SITES)})
        for member in self.members.values():
            member.said.clear()
            member.instead = lambda _phase, said: said

    def begin_anew(self) -> None:
        """Let the sites forget their rounds, as processes that are started do."""
        for member in self.members.values():
            member._rounds.clear()

    def total(self, *, least: int = 2, on_phase: Any = lambda _n, _p: None) -> Any:
        with Coordinator(
            links=self.links, federation="f", least=least, patience_s=60, on_phase=on_phase
        ) as asking:
            return asking.total({"kind": "test"}, 6)
