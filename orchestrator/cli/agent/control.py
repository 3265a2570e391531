"""``hpcqc agent``: what its commands do and how they tell it."""

from __future__ import annotations

import getpass
import os
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.agent.control import (
    AgentStatus,
    run_agent,
    start_agent,
    status_of,
    stop_agent,
)
from orchestrator.agent.folder import AgentError, AgentFolder
from orchestrator.agent.plan import AgentSettings
from orchestrator.broker.runtime.site_rules import check_schedules
from orchestrator.cli.output import facts, print_json, say, tabulate, write
from orchestrator.config.environment import prefect_is_configured, state_dir, variable
from orchestrator.config.loading import load_site, lookup
from orchestrator.wording import counted

__all__ = [
    "StartRequest",
    "agent_folder",
    "start_and_tell",
    "stop_and_tell",
    "tell_logs",
    "tell_status",
]

_FOLLOW_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    """What the user asked for, as it was typed."""

    site_file: Path | None = None
    foreground: bool = False
    prefect_port: int = 0
    broker_port: int = 0
    pool: str | None = None
    flows: int = 0
    timeout_s: float = 180.0
    as_json: bool = False


def agent_folder() -> AgentFolder:
    """Return the folder of this user's agent."""
    return AgentFolder(path=state_dir() / "agent")


def start_and_tell(request: StartRequest) -> None:
    """Start the agent, or be it. Raises ``AgentError`` and ``AgentFailed``."""
    settings = _settings(request)
    if request.foreground:
        run_agent(settings)
        return
    seen: dict[str, str] = {}

    def tell(status: AgentStatus) -> None:
        for name, child in status.children.items():
            if child["state"] != seen.get(name) and child["state"] in ("ready", "waiting"):
                took = time.monotonic() - began
                say(f"{child['title']}: {child['state']} ({took:.1f} s)", stderr=True)
            seen[name] = child["state"]

    began = time.monotonic()
    status = start_agent(settings, tell, request.timeout_s)
    if request.as_json:
        print_json(_document(status))
        return
    _say_status(status)


def tell_status(*, as_json: bool) -> int:
    """Say how the agent is; return 0 if all of it is healthy, else 1."""
    status = status_of(agent_folder())
    if as_json:
        print_json(_document(status))
    else:
        _say_status(status)
    return 0 if status.is_healthy else 1


def stop_and_tell(*, as_json: bool) -> None:
    """End the agent. Raises ``AgentError`` and ``AgentFailed``."""
    folder = agent_folder()
    before = stop_agent(folder)
    if as_json:
        print_json({"stopped": before.processes > 0 or before.pid is not None, "pid": before.pid})
    elif before.pid is not None:
        say("the agent has ended; flows that were under way go on at its next start")
    elif before.processes:
        say(
            f"no agent was running; ended "
            f"{counted(before.processes, 'process', 'processes')} that one had left"
        )
    else:
        say("no agent was running")


def tell_logs(name: str | None, lines: int, *, follow: bool, as_json: bool) -> None:
    """Write the ends of the logs. Raises ``AgentError`` if there is no such log."""
    folder = agent_folder()
    known = sorted(path.stem for path in (folder.path / "logs").glob("*.log"))
    if name is not None and name not in known:
        raise AgentError(f"no log {name!r}; there are: {', '.join(known) or 'none yet'}")
    named = [name] if name is not None else known
    ends = {each: _end(folder.log_path(each), lines) for each in named}
    if as_json:
        print_json(ends)
        return
    for each, text in ends.items():
        if len(ends) > 1:
            say(f"==> {folder.log_path(each)} <==", style="bold")
        write("".join(text), sys.stdout)
    if follow:
        _follow([folder.log_path(each) for each in named])


def _settings(request: StartRequest) -> AgentSettings:
    site = load_site(request.site_file)
    check_schedules(site.qpus.values(), datetime.now(UTC))
    compute = site.compute()
    configured = _configured_server()
    private = f"hpcqc-{getpass.getuser()}-{os.uname().nodename}"
    return AgentSettings(
        state_dir=site.state_dir,
        site_file=_absolute(lookup(request.site_file)),
        workers=compute.workers or len(os.sched_getaffinity(0)),
        memory_per_worker=compute.memory_per_worker,
        prefect_url=configured,
        broker_url=site.broker.url,
        pool=request.pool or ("hpcqc" if configured is None else private),
        flows=request.flows or max(2, len(os.sched_getaffinity(0))),
        prefect_port=request.prefect_port,
        broker_port=request.broker_port,
    )


def _configured_server() -> str | None:
    """Return the Prefect server that the user has configured, None if there is none."""
    if (named := variable("PREFECT_API_URL")) is not None:
        return named
    if not prefect_is_configured():
        return None
    from prefect.settings import PREFECT_API_URL  # only Prefect knows all the places

    found: str | None = PREFECT_API_URL.value()
    return found


def _document(status: AgentStatus) -> dict[str, Any]:
    return {**asdict(status), "healthy": status.is_healthy}


def _say_status(status: AgentStatus) -> None:
    pages = status.addresses
    running = status.phase != "stopped"
    facts(
        {
            "agent": status.phase + ("" if status.is_healthy or not running else ", not healthy"),
            "process": status.pid,
            "since": status.since and status.since[:19].replace("T", " ") + " UTC",
            "Prefect": pages.get("prefect_page", pages.get("prefect")) if running else None,
            "Dask": pages.get("dask") if running else None,
            "broker": pages.get("broker_page", pages.get("broker")) if running else None,
            "folder": status.folder,
        }
    )
    if status.children:
        columns = ("part", "state", "process", "restarts", "last exit")
        rows = [
            [child["title"], child["state"], child["pid"], child["restarts"], child["last_exit"]]
            for child in status.children.values()
        ]
        tabulate(columns, rows)


def _end(path: Path, lines: int) -> list[str]:
    with path.open(encoding="utf-8", errors="replace") as log:
        return list(deque(log, maxlen=lines))


def _follow(paths: list[Path]) -> None:
    """Write what is added to the logs until Ctrl-C."""
    open_logs = [path.open(encoding="utf-8", errors="replace") for path in paths]
    try:
        for log in open_logs:
            log.seek(0, os.SEEK_END)
        while True:
            for log in open_logs:
                write(log.read(), sys.stdout)
            time.sleep(_FOLLOW_S)
    except KeyboardInterrupt:
        return
    finally:
        for log in open_logs:
            log.close()


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()
