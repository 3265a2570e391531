"""Starting, watching and stopping an agent from another process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.agent.folder import AgentError, AgentFolder
from orchestrator.agent.plan import planned
from orchestrator.agent.processes import MARKER, end_marked, marked
from orchestrator.agent.settings import AgentSettings
from orchestrator.agent.supervisor import Supervisor, end_leftovers
from orchestrator.config.environment import process_environment

__all__ = ["AgentFailed", "AgentStatus", "run_agent", "start_agent", "status_of", "stop_agent"]

_LOOK_EVERY_S = 0.05
_STOP_S = 60.0


class AgentFailed(RuntimeError):
    """The agent did not come up, or did not end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStatus:
    """An agent as seen from outside.

    phase: ``starting``, ``ready``, ``stopping``, or ``stopped``, where none is running.
    processes: how many processes of it there are, flows included. pool: its work pool in
    Prefect; site: its site file, None for the built-in laptop.
    """

    phase: str
    folder: Path
    pid: int | None = None
    host: str | None = None
    since: str | None = None
    addresses: Mapping[str, str] = field(default_factory=dict)
    children: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    processes: int = 0
    pool: str = "hpcqc"
    site: Path | None = None

    @property
    def is_healthy(self) -> bool:
        """Whether the agent and each of its children are at work."""
        states = [child.get("state") for child in self.children.values()]
        return self.phase == "ready" and all(state == "ready" for state in states)


def run_agent(settings: AgentSettings) -> None:
    """Be the agent until SIGTERM. Raises `AgentError` where it cannot begin."""
    folder = settings.folder
    folder.prepare()
    with folder.held():
        folder.turn_logs()
        end_leftovers(folder)
        plan = planned(settings)
        try:
            Supervisor(folder, plan).run()
        finally:
            for listening in plan.held:
                listening.close()


def start_agent(
    settings: AgentSettings, tell: Callable[[AgentStatus], None], timeout_s: float
) -> AgentStatus:
    """Start an agent that stays when this process ends; return when it is ready.

    tell: called with each change on the way. Raises `AgentError` where it cannot begin,
    and `AgentFailed` when it takes longer than ``timeout_s``; then it is stopped.
    """
    folder = settings.folder
    folder.prepare()
    if folder.is_held():
        with folder.held():  # raises, saying who has it
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
        return _until_ready(folder, process, tell, time.monotonic() + timeout_s)
    except KeyboardInterrupt:
        stop_agent(folder)
        raise


def status_of(folder: AgentFolder) -> AgentStatus:
    """Return how the agent on this folder is."""
    said = folder.read_state()
    addresses = said.get("addresses") or {}
    if not folder.is_held():
        count = len(marked(folder.path))
        return AgentStatus(
            phase="stopped", folder=folder.path, addresses=addresses, processes=count
        )
    holder = folder.holder()
    current = holder is not None and said.get("supervisor") == holder.document()
    return AgentStatus(
        phase=str(said.get("phase")) if current else "starting",
        folder=folder.path,
        pid=holder.pid if holder else None,
        host=holder.host if holder else None,
        since=said.get("since") if current else None,
        addresses=addresses if current else {},
        children=said.get("children", {}) if current else {},
        processes=len(marked(folder.path)),
        pool=str(said.get("pool")),
        site=Path(said["site"]) if said.get("site") else None,
    )


def stop_agent(folder: AgentFolder) -> AgentStatus:
    """End the agent and everything it started; return what there was before.

    Also ends what an agent left that was killed. Raises `AgentError` if it runs on another
    machine, and `AgentFailed` if it does not end.
    """
    before = status_of(folder)
    holder = folder.holder()
    if folder.is_held() and holder is not None:
        if not holder.is_here:
            raise AgentError(f"the agent runs on {holder.host}; stop it there")
        holder.signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        while folder.is_held():
            if time.monotonic() > deadline:
                holder.signal(signal.SIGKILL)
                deadline += _STOP_S
            time.sleep(_LOOK_EVERY_S)
        # It lets go of the folder as its last act; it may end in peace.
        while holder.is_alive() and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S)
    end_marked(folder.path, 0.0)
    return before


def _until_ready(
    folder: AgentFolder,
    process: subprocess.Popen[bytes],
    tell: Callable[[AgentStatus], None],
    deadline: float,
) -> AgentStatus:
    told = None
    while True:
        status = status_of(folder)
        if status.pid == process.pid and status != told:
            tell(status)
            told = status
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
    """Say why a supervisor ended: a mistake is the last line of its log, and its code is 2."""
    log = folder.log_path("supervisor")
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1] if lines else "it said nothing"
    if code == 2:
        return AgentError(last)
    return AgentFailed(f"the agent ended with code {code}: {last} (see {log})")
