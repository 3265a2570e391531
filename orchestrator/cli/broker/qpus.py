"""``hpcqc broker status``, ``drain`` and ``resume``: the service and its QPUs."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import Json, SiteFile
from orchestrator.cli.output import facts, print_json, say, tabulate
from orchestrator.wording import counted

if TYPE_CHECKING:
    from orchestrator.broker.client.status import QpuReadiness, QpuStatus

__all__ = ["Reason", "broker_status", "drain", "readiness_facts", "ready", "resume"]

_QpuName = Annotated[str, typer.Argument(metavar="QPU")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept in the ledger.")]


def broker_status(site: SiteFile = None, as_json: Json = False) -> None:
    """Show whether the service is healthy, and each QPU; exit 1 if it is not."""
    from pydantic_core import to_jsonable_python

    from orchestrator.application.service import open_service

    with closing(open_service(site=site)) as broker:
        health, qpus = broker.health(), broker.qpus()
    link = broker.link_facts
    if as_json:
        shown = {"url": broker.url, "health": health, "qpus": qpus}
        print_json(to_jsonable_python(shown | ({"link": link} if link else {})))
    else:
        facts(
            {
                "broker": broker.url,
                "link": link and f"{link.protocol}, {link.group}, to {link.peer}",
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
        facts(readiness_facts(found), title=f"QPU {qpu}")
    raise typer.Exit(0 if found.operational and found.has_room else 1)


def readiness_facts(found: QpuReadiness) -> dict[str, str | None]:
    """Return a QPU's status, capacity and readiness as text, each with when and whose it is."""
    status = _answer(found.operational, "works", "does not work", found.operational_reason)
    ready = _answer(found.has_room, "a job would start", "no job would start", found.room_reason)
    capacity = _capacity(found)
    slurm = found.slurm_at
    return {
        "status": f"{status} ({_source(found, 'status')})",
        "capacity": f"{capacity} ({_source(found, 'capacity')})",
        "readiness": f"{ready} ({_source(found, 'readiness')})",
        "heard of Slurm": None if slurm is None else f"{slurm:%H:%M:%S} UTC",
        "Slurm's fault": found.slurm_error,
    }


def _capacity(found: QpuReadiness) -> str:
    if found.open is not None:
        taken = f"{counted(found.open, 'task')} open"
        return taken if found.slots is None else f"{taken} of {found.slots}"
    if found.operational is None:
        return "not known"
    most = "any number of tasks" if found.slots is None else counted(found.slots, "task")
    return f"{most} at once"


def _answer(answer: bool | None, yes: str, no: str, reason: str | None) -> str:
    if answer:
        return yes
    word = "not known" if answer is None else no
    return f"{word}: {reason}" if reason else word


def _source(found: QpuReadiness, fact: str) -> str:
    source = found.sources.get(fact)
    if source is None or source.at is None:
        return "never obtained"
    age_s = found.age_of(fact)
    return f"{source.at:%Y-%m-%d %H:%M:%S} UTC, {age_s:.0f} s ago, by {source.credentials}"


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
