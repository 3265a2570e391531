"""Starting, using and stopping an agent from another process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.agent.folder import AgentError, AgentFolder
from orchestrator.agent.plan import AgentSettings, planned
from orchestrator.agent.processes import MARKER, end_marked, marked
from orchestrator.agent.supervisor import Supervisor, end_leftovers
from orchestrator.config.environment import process_environment
from orchestrator.config.loading import BUILT_IN
from orchestrator.config.site import Site

__all__ = [
    "AgentFailed",
    "AgentStatus",
    "agent_environment",
    "run_agent",
    "start_agent",
    "status_of",
    "stop_agent",
]

_LOOK_EVERY_S = 0.05
_STOP_S = 60.0


class AgentFailed(RuntimeError):
    """The agent did not become ready, or did not end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStatus:
    """The state of an agent."""

    phase: str  # starting, ready, stopping, or stopped, where no agent is running
    folder: Path
    pid: int | None = None
    host: str | None = None
    since: str | None = None
    addresses: Mapping[str, str] = field(default_factory=dict)
    children: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    processes: int = 0  # flows included
    pool: str = "hpcqc"  # its work pool in Prefect
    site: Path | None = None  # its site file, None for the built-in laptop

    @property
    def is_healthy(self) -> bool:
        """Whether the agent and each of its children are running."""
        states = [child.get("state") for child in self.children.values()]
        return self.phase == "ready" and all(state == "ready" for state in states)


def run_agent(settings: AgentSettings) -> None:
    """Run the agent in this process until SIGTERM. Raises `AgentError` if it cannot start."""
    folder = settings.folder
    folder.prepare()
    with folder.locked():
        folder.turn_logs()
        end_leftovers(folder)
        plan = planned(settings)
        try:
            Supervisor(folder, plan).run()
        finally:
            for listening in plan.sockets:
                listening.close()


def start_agent(
    settings: AgentSettings, report: Callable[[AgentStatus], None], timeout_s: float
) -> AgentStatus:
    """Start an agent that outlives this process; block until it is ready.

    Raises `AgentError` if it cannot start, `AgentFailed` if it is stopped after ``timeout_s``.
    """
    folder = settings.folder
    folder.prepare()
    if folder.is_locked():
        with folder.locked():  # raises, naming its owner
            pass
    log = folder.log_path("supervisor")
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "orchestrator.agent", settings.to_json()],
            env={**process_environment(), MARKER: str(folder.path)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=settings.state_dir,
            start_new_session=True,
        )
    try:
        return _until_ready(folder, process, report, time.monotonic() + timeout_s)
    except KeyboardInterrupt:
        stop_agent(folder)
        raise


def status_of(folder: AgentFolder) -> AgentStatus:
    """Return the state of the agent on this folder."""
    return replace(_reported(folder), processes=len(marked(folder.path)))


def stop_agent(folder: AgentFolder) -> AgentStatus:
    """End an agent and its processes; return its earlier state.

    Raises `AgentError` if it runs on another machine.
    """
    before = status_of(folder)
    owner = folder.owner()
    if folder.is_locked() and owner is not None:
        if not owner.is_here:
            raise AgentError(f"the agent runs on {owner.host}; stop it there")
        owner.signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        while folder.is_locked():
            if time.monotonic() > deadline:
                owner.signal(signal.SIGKILL)
                deadline += _STOP_S
            time.sleep(_LOOK_EVERY_S)
        # It unlocks the folder last of all; let it end by itself.
        while owner.is_alive() and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S)
    end_marked(folder.path, 0.0)
    return before


def agent_environment(site: Site) -> Mapping[str, str] | None:
    """Return the variables that connect a run to its site's ready agent, None if there is none."""
    folder = AgentFolder(path=site.state_dir / "agent")
    status = _reported(folder)
    if not status.is_healthy or status.host != os.uname().nodename:
        return None
    if not _same_site(site, status.site, str(status.since)):
        return None
    try:
        found = json.loads(folder.flow_environment_path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # an agent of an earlier version
        return None
    return {str(name): str(value) for name, value in found.items()}


def _reported(folder: AgentFolder) -> AgentStatus:
    """Return what the agent itself wrote about its state, without the number of its processes."""
    state = folder.read_state()
    addresses = state.get("addresses") or {}
    if not folder.is_locked():
        return AgentStatus(phase="stopped", folder=folder.path, addresses=addresses)
    owner = folder.owner()
    current = owner is not None and state.get("supervisor") == asdict(owner)
    return AgentStatus(
        phase=str(state.get("phase")) if current else "starting",
        folder=folder.path,
        pid=owner.pid if owner else None,
        host=owner.host if owner else None,
        since=state.get("since") if current else None,
        addresses=addresses if current else {},
        children=state.get("children", {}) if current else {},
        pool=str(state.get("pool")),
        site=Path(state["site"]) if state.get("site") else None,
    )


def _until_ready(
    folder: AgentFolder,
    process: subprocess.Popen[bytes],
    report: Callable[[AgentStatus], None],
    deadline: float,
) -> AgentStatus:
    reported = None
    while True:
        status = status_of(folder)
        if status.pid == process.pid and status != reported:
            report(status)
            reported = status
            if status.phase == "ready":
                return status
        if (code := process.poll()) is not None:
            raise _failure(folder, code)
        if time.monotonic() > deadline:
            late = [name for name, c in status.children.items() if c["state"] != "ready"]
            stop_agent(folder)
            raise AgentFailed(
                f"the agent was not ready in time and was stopped; not ready: {', '.join(late)}. "
                f"See {folder.log_path(late[0] if late else 'supervisor')}"
            )
        time.sleep(_LOOK_EVERY_S)


def _failure(folder: AgentFolder, code: int) -> Exception:
    """Return why a supervisor ended: after a mistake, code 2, its log's last line says it."""
    log = folder.log_path("supervisor")
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1] if lines else "its log is empty"
    if code == 2:
        return AgentError(last)
    return AgentFailed(f"the agent ended with code {code}: {last} (see {log})")


def _same_site(site: Site, served: Path | None, since: str) -> bool:
    """Whether the agent serves this site. since: when it began, and read the site's file."""
    if served is None:
        return site.source == BUILT_IN
    file = Path(site.source)
    if site.source == BUILT_IN or file.resolve() != served.resolve():
        return False
    try:
        return file.stat().st_mtime <= datetime.fromisoformat(since).timestamp()
    except (OSError, ValueError):
        return False
