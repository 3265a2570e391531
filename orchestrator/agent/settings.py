"""What one agent is to be: read once at its start, handed on as values."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.agent.folder import AgentFolder

__all__ = ["AgentSettings", "default_flows"]


def default_flows() -> int:
    """Return how many flows run at once where nothing is said: as many as cores, two at least."""
    return max(2, len(os.sched_getaffinity(0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """One agent. Ports are 0 where any free one will do.

    site_file: None for the built-in laptop. workers, memory_per_worker: of the site's default
    compute. prefect_url: the server that is configured elsewhere, None to bring one up.
    broker_url: the same for the broker. pool: the work pool's name. flows: how many run at once.
    """

    state_dir: Path
    site_file: Path | None = None
    workers: int = 1
    memory_per_worker: str | None = None
    prefect_url: str | None = None
    broker_url: str | None = None
    pool: str = "hpcqc"
    flows: int = 2
    prefect_port: int = 0
    broker_port: int = 0

    @property
    def folder(self) -> AgentFolder:
        """Where this agent keeps everything."""
        return AgentFolder(path=self.state_dir / "agent")

    def to_json(self) -> str:
        """Return this as JSON, for a process that is to be this agent."""
        return json.dumps(asdict(self), default=str)

    @staticmethod
    def from_json(text: str) -> AgentSettings:
        """Read what `to_json` wrote."""
        raw: Mapping[str, Any] = json.loads(text)
        paths = {
            name: Path(raw[name]) if raw[name] is not None else None
            for name in ("state_dir", "site_file")
        }
        return AgentSettings(**{**raw, **paths})
