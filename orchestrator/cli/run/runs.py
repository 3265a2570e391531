"""``hpcqc runs``, ``logs`` and ``cancel``: runs of this state folder, whichever process has them."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import Json, Limit, SiteFile, whole
from orchestrator.cli.output import facts, print_json, say, tabulate, write
from orchestrator.provenance.markup import duration_text
from orchestrator.wording import counted

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.agent.deployments import FlowRunView
    from orchestrator.application.known_runs import RunView
    from orchestrator.provenance.schema import RecordedSlurm

__all__ = ["cancel_run", "flow_run_document", "print_flow_run", "run_logs", "runs"]

_ID_SHOWN = 22  # the whole of an id that hpcqc made
# What is looked up for one run alone.
_OF_ONE = ("quantum_jobs", "slurm_use", "logs", "outcome", "result")
_Run = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run, or the start of it.")]


def runs(
    run: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One run, with its result, jobs and logs.")
    ] = None,
    limit: Limit = 20,
    site: SiteFile = None,
    as_json: Json = False,
) -> None:
    """List the runs of this state folder and of the agent, or show one."""
    from orchestrator.application.known_runs import runs as known_runs

    if run is not None:
        _show(run, site, as_json=as_json)
        return
    views = known_runs(limit, site=site)
    if as_json:
        documents = [asdict(view) for view in views]
        print_json([{k: v for k, v in one.items() if k not in _OF_ONE} for one in documents])
    elif not views:
        say("no runs yet; `hpcqc run TARGET` or `hpcqc submit NAME` makes one")
    else:
        tabulate(_COLUMNS, [_row(view) for view in views])


def run_logs(
    run: _Run,
    lines: Annotated[
        int, typer.Option(parser=whole(1), metavar="N", help="The last N lines.")
    ] = 40,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on as lines are written, to the run's end.")
    ] = False,
    site: SiteFile = None,
    as_json: Json = False,
) -> None:
    """Show the end of a run's log and of what its driver job printed, and why it ended."""
    from orchestrator.application.known_runs import run_view
    from orchestrator.application.run_logs import follow_logs
    from orchestrator.application.run_logs import run_logs as read_logs

    following = follow_logs(run, site=site) if follow and not as_json else iter(())
    ends = read_logs(run, lines=lines, site=site)
    if as_json:
        print_json({str(path): text for path, text in ends.items()})
        return
    if not any(ends.values()) and not follow:
        say(f"run {run} has logged nothing yet; `hpcqc runs {run}` prints how it is")
    last = None
    for path, text in ends.items():
        if len(ends) > 1:
            say(f"==> {path} <==", style="bold")
        write(text, sys.stdout)
        last = path
    for piece in following:
        if piece.path != last and last is not None:
            say(f"==> {piece.path} <==", style="bold")
        write(piece.text, sys.stdout)
        last = piece.path
    view = run_view(run, site=site)
    if view.state not in ("pending", "running", "completed"):
        why = view.reason or view.state
        ended = why if why.startswith(view.state) else f"{view.state}: {why}"
        say(f"run {view.id} is {ended}", stderr=True)


def cancel_run(run: _Run, site: SiteFile = None, as_json: Json = False) -> None:
    """End a run: its process, workers, quantum jobs and Slurm jobs. It can be continued."""
    from orchestrator.application.cancel import cancel_run as end_run

    ended = end_run(run, site=site)
    if as_json:
        print_json(asdict(ended))
        return
    if ended.before in ("pending", "running", "killed"):
        say(f"run {ended.id} is cancelled; it was {ended.before}")
    else:
        say(f"run {ended.id} had ended already: it is {ended.before}")
    if ended.slurm_jobs:
        listed = ", ".join(map(str, ended.slurm_jobs))
        say(f"ended {counted(len(ended.slurm_jobs), 'Slurm job')}: {listed}")
    if ended.quantum_jobs:
        say(f"cancelled {counted(ended.quantum_jobs, 'quantum job')} that it had left open")


_COLUMNS = (
    *("run", "flow", "state", "where", "started, UTC", "took", "stages", "QPU", "holds", "reason"),
)


def _row(view: RunView) -> list[Any]:
    from orchestrator.cli.run.clean import size_text

    return [
        view.id[:_ID_SHOWN],
        view.flow,
        view.state,
        _place(view),
        _moment(view.started_at),
        duration_text(_seconds(view)),
        view.stages_done,
        None if view.qpu_seconds is None else duration_text(view.qpu_seconds),
        size_text(view.stored_bytes),
        view.reason,
    ]


def _place(view: RunView) -> str:
    if view.agent:
        return "agent"
    parts = [f"Slurm job {view.slurm_job}"] if view.slurm_job is not None else []
    if view.host is not None:
        parts.append(view.host)
    return ", ".join(parts)


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


def _seconds(view: RunView) -> float | None:
    if view.started_at is None or view.ended_at is None:
        return None
    return (view.ended_at - view.started_at).total_seconds()


def _show(run: str, site: Any, *, as_json: bool) -> None:
    """Show a run of the state folder, else one of the agent."""
    from orchestrator.application.known_runs import agent_is_running, run_view
    from orchestrator.config.errors import ConfigError
    from orchestrator.config.loading import load_site

    try:
        view = run_view(run, site=site)
    except ConfigError:
        if not agent_is_running(load_site(site).state_dir):
            raise
        from orchestrator.application.agent import flow_run

        print_flow_run(flow_run(run), as_json=as_json)
        return
    if as_json:
        print_json(asdict(replace(view, outcome=None)))  # its parts are in the result
        return
    jobs = ", ".join(f"{number} {state}" for state, number in view.quantum_jobs.items())
    facts(
        {
            "flow": view.flow,
            "state": view.state,
            "reason": view.reason,
            "where": _place(view) or None,
            "process": view.process,
            "started": view.started_at,
            "ended": view.ended_at,
            "stages done": view.stages_done,
            "quantum jobs": jobs or None,
            "on QPUs": None if view.qpu_seconds is None else duration_text(view.qpu_seconds),
            "Slurm jobs": None if view.slurm_use is None else _slurm_text(view.slurm_use),
            "folder": view.folder,
            "logs": ", ".join(map(str, view.logs)) or None,
        },
        title=f"run {view.id}",
    )
    if view.outcome is not None:
        from orchestrator.cli.run.run import print_result

        print_result(view.outcome, view.result)


def _slurm_text(used: RecordedSlurm) -> str:
    """Return what a run's Slurm jobs took, in a line."""
    jobs = counted(len({job.id for job in used.jobs}), "job")
    node_hours = f"{used.node_s / 3600:.3g} node-hours"
    held = f", QPUs held for {duration_text(used.qpu_held_s)}" if used.qpu_held_s else ""
    return f"{jobs}, {node_hours}{held}" + ("" if used.is_complete else ", so far as accounted")


def print_flow_run(view: FlowRunView, *, as_json: bool) -> None:
    """Print a flow run of the agent with its result."""
    if as_json:
        print_json(flow_run_document(view))
        return
    facts(
        {
            "flow": view.deployment,
            "state": view.state,
            "message": view.message,
            "started": view.started_at,
            "took": duration_text(view.seconds),
            "parameters": dict(view.parameters) or None,
            "Prefect": view.url,
            "result": view.unread,
        },
        title=f"run {view.id}",
    )
    if view.result is not None:
        print_json(view.result)


def flow_run_document(view: FlowRunView) -> dict[str, Any]:
    """Return a flow run of the agent as JSON."""
    return {**asdict(view), "id": str(view.id)}
