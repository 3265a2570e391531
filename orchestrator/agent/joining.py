"""Lets a run on this machine use what a running agent keeps warm."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from orchestrator.agent.folder import AgentFolder
from orchestrator.config import Site
from orchestrator.config.loading import BUILT_IN

__all__ = ["agent_environment"]


def agent_environment(site: Site) -> Mapping[str, str] | None:
    """Return the variables that point a run at the agent of its state folder.

    They name the agent's Prefect server, broker and Dask, and what admits this user to them.
    None if no agent is ready there, or if it serves another site, or this one as it was before
    its file was changed.
    """
    folder = AgentFolder(path=site.state_dir / "agent")
    if not folder.is_held():
        return None
    said, holder = folder.read_state(), folder.holder()
    children = said.get("children", {}).values()
    ready = (
        said.get("phase") == "ready"
        and holder is not None
        and holder.is_here
        and said.get("supervisor") == holder.document()
        and all(child.get("state") == "ready" for child in children)
    )
    if not ready or not _same_site(site, said.get("site"), str(said.get("since"))):
        return None
    try:
        found = json.loads(folder.flow_environment_path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # an agent of an earlier version
        return None
    return {str(name): str(value) for name, value in found.items()}


def _same_site(site: Site, served: str | None, since: str) -> bool:
    """Whether the agent serves this site. since: when it began, and read the site's file."""
    if served is None:
        return site.source == BUILT_IN
    file = Path(site.source)
    if site.source == BUILT_IN or file.resolve() != Path(served).resolve():
        return False
    try:
        return file.stat().st_mtime <= datetime.fromisoformat(since).timestamp()
    except (OSError, ValueError):
        return False
