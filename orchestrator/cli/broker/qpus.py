"""``hpcqc broker status``, ``drain`` and ``resume``: the service and its QPUs."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import Json, SiteFile
from orchestrator.cli.output import facts, print_json, say, tabulate
from orchestrator.wording import counted

if TYPE_CHECKING:
    from orchestrator.broker.client.status import QpuStatus

__all__ = ["Reason", "broker_status", "drain", "ready", "resume"]

_QpuName = Annotated[str, typer.Argument(metavar="QPU")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept in the ledger.")]


def broker_status(site: SiteFile = None, as_json: Json = False) -> None:
    """Show whether the service is healthy, and each QPU; exit 1 if it is not."""
    from pydantic_core import to_jsonable_python

    from orchestrator.application.service import open_service

    with closing(open_service(site=site)) as broker:
        health, qpus = broker.health(), broker.qpus()
    if as_json:
        print_json(to_jsonable_python({"url": broker.url, "health": health, "qpus": qpus}))
    else:
        facts(
            {
                "broker": broker.url,
                "status": health.status,
                "reason": health.reason,
                "version": health.version,
            }
        )
        columns = ("QPU", "backend", "state", "queued", "open tasks", "reason")
        tabulate((*columns, "calendar", "predictions"), map(_status_row, qpus))
    raise typer.Exit(0 if health.status == "ok" else 1)


def ready(
    qpu: _QpuName,
    qubits: Annotated[int, typer.Option("--qubits", min=1, help="Size of the job.")] = 1,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.0, help="QPU-seconds of the job.")
    ] = 0.0,
    site: SiteFile = None,
    as_json: Json = False,
) -> None:
    """Say whether a QPU works and has room for a job, without reserving it; exit 1 if not."""
    from pydantic_core import to_jsonable_python

    from orchestrator.application.service import open_service

    with closing(open_service(site=site)) as broker:
        found = broker.readiness(qpu, qubits=qubits, seconds=seconds)
    if as_json:
        print_json(to_jsonable_python(found))
    else:
        age, slurm = found.age_s, found.slurm_at
        facts(
            {
                "operational": _answer(found.operational, found.operational_reason),
                "room": _answer(found.has_room, found.room_reason),
                "heard of the QPU": "never" if age is None else f"{age:.0f} s ago",
                "heard of Slurm": None if slurm is None else f"{slurm:%H:%M:%S} UTC",
                "Slurm's fault": found.slurm_error,
            },
            title=f"QPU {qpu}",
        )
    raise typer.Exit(0 if found.operational and found.has_room else 1)


def _answer(answer: bool | None, reason: str | None) -> str:
    if answer is None:
        return "not known"
    return "yes" if answer else f"no: {reason}"


def drain(qpu: _QpuName, reason: Reason, site: SiteFile = None, as_json: Json = False) -> None:
    """Start no further task on a QPU; running tasks end as they would. For operators."""
    from orchestrator.application.service import open_service

    with closing(open_service(site=site)) as broker:
        _print_change(broker.drain(qpu, reason), as_json=as_json)


def resume(qpu: _QpuName, site: SiteFile = None, as_json: Json = False) -> None:
    """Let a drained QPU take work again. For operators."""
    from orchestrator.application.service import open_service

    with closing(open_service(site=site)) as broker:
        _print_change(broker.resume(qpu), as_json=as_json)


def _print_change(qpu: QpuStatus, *, as_json: bool) -> None:
    from pydantic_core import to_jsonable_python

    if as_json:
        print_json(to_jsonable_python(qpu))
    else:
        open_tasks = f"; {counted(qpu.open, 'task')} still open" if qpu.open else ""
        say(f"{qpu.name} is {qpu.state}{open_tasks}")


def _status_row(qpu: QpuStatus) -> list[Any]:
    from orchestrator.broker.core.rules import in_utc

    state, calendar, closure = str(qpu.state), None, qpu.closure
    if closure is not None and not qpu.closed:
        calendar = f"closes {in_utc(closure.start)}: {closure.reason}"
    elif closure is not None:
        calendar, until = closure.reason, f"closed until {in_utc(closure.end)}"
        if qpu.state == "online":
            state = until
        else:
            calendar = f"{until}: {closure.reason}"
    return [
        *(qpu.name, qpu.backend, state, qpu.queued, qpu.open, qpu.reason, calendar),
        f"off by {qpu.error:.1%} in {counted(qpu.predicted, 'task')}"
        if qpu.error is not None
        else None,
    ]
