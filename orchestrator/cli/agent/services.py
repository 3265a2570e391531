"""``hpcqc agent``: the local agent started, shown and stopped."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import Json, SiteFile, real, whole
from orchestrator.cli.output import facts, print_json, say, tabulate, write
from orchestrator.wording import counted

if TYPE_CHECKING:
    from orchestrator.agent.control import AgentStatus

__all__ = ["logs", "start", "status", "stop"]

_FOLLOW_S = 0.3


def start(
    site: SiteFile = None,
    foreground: Annotated[
        bool,
        typer.Option("--foreground", help="Stay, and end with this process; for systemd."),
    ] = False,
    prefect_port: Annotated[
        int,
        typer.Option(
            parser=whole(0, 65535), metavar="N", help="Port of Prefect's UI; 0 for a free one."
        ),
    ] = 0,
    broker_port: Annotated[
        int,
        typer.Option(
            parser=whole(0, 65535), metavar="N", help="Port of the broker's page; 0 for a free one."
        ),
    ] = 0,
    pool: Annotated[
        str | None, typer.Option(metavar="NAME", help="Prefect work pool; hpcqc if not given.")
    ] = None,
    flows: Annotated[
        int,
        typer.Option(parser=whole(0), metavar="N", help="Flows at once; 0 for as many as cores."),
    ] = 0,
    timeout: Annotated[
        float, typer.Option(parser=real(1), metavar="S", help="Seconds until it must be ready.")
    ] = 180.0,
    as_json: Json = False,
) -> None:
    """Start the agent, wait until it is ready, and print its addresses."""
    from orchestrator.agent.control import run_agent, start_agent
    from orchestrator.application.agent import agent_settings

    settings = agent_settings(
        site, pool=pool, flows=flows, prefect_port=prefect_port, broker_port=broker_port
    )
    if foreground:
        run_agent(settings)
        return
    states: dict[str, str] = {}

    def report(status: AgentStatus) -> None:
        for name, child in status.children.items():
            if child["state"] != states.get(name) and child["state"] in ("ready", "waiting"):
                took = time.monotonic() - began
                say(f"{child['title']}: {child['state']} ({took:.1f} s)", stderr=True)
            states[name] = child["state"]

    began = time.monotonic()
    started = start_agent(settings, report, timeout)
    if as_json:
        print_json(_document(started))
    else:
        _print_status(started)


def status(as_json: Json = False) -> None:
    """Show the agent's parts and addresses; exit 1 unless all of it is healthy."""
    from orchestrator.agent.control import status_of
    from orchestrator.application.agent import agent_folder

    found = status_of(agent_folder())
    if as_json:
        print_json(_document(found))
    else:
        _print_status(found)
    raise typer.Exit(0 if found.is_healthy else 1)


def stop(as_json: Json = False) -> None:
    """End the agent and every process it started; running flows continue at the next start."""
    from orchestrator.agent.control import stop_agent
    from orchestrator.application.agent import agent_folder

    before = stop_agent(agent_folder())
    if as_json:
        print_json({"stopped": before.processes > 0 or before.pid is not None, "pid": before.pid})
    elif before.pid is not None:
        say("the agent has ended; flows that were running continue at its next start")
    elif before.processes:
        left = counted(before.processes, "process", "processes")
        say(f"no agent was running; ended {left} that one had left")
    else:
        say("no agent was running")


def logs(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="prefect, dask, broker, worker or supervisor."),
    ] = None,
    lines: Annotated[
        int, typer.Option(parser=whole(1), metavar="N", help="The last N lines.")
    ] = 40,
    follow: Annotated[bool, typer.Option("--follow", help="Go on as lines are written.")] = False,
    as_json: Json = False,
) -> None:
    """Show the end of a log, or of all of them."""
    from orchestrator.agent.folder import AgentError
    from orchestrator.application.agent import agent_folder

    folder = agent_folder()
    known = sorted(path.stem for path in (folder.path / "logs").glob("*.log"))
    if name is not None and name not in known:
        raise AgentError(f"no log {name!r}; there are: {', '.join(known) or 'none yet'}")
    paths = {each: folder.log_path(each) for each in ([name] if name is not None else known)}
    ends = {each: _end(path, lines) for each, path in paths.items()}
    if as_json:
        print_json(ends)
        return
    for each, text in ends.items():
        if len(ends) > 1:
            say(f"==> {paths[each]} <==", style="bold")
        write("".join(text), sys.stdout)
    if follow:
        _follow(list(paths.values()))


def _document(status: AgentStatus) -> dict[str, Any]:
    return {**asdict(status), "healthy": status.is_healthy}


def _print_status(status: AgentStatus) -> None:
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
