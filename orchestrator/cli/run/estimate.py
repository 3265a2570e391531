"""``hpcqc estimate``: what a run will use, from a dry run."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import Json, Parameters, Qpu, Settings, SiteFile
from orchestrator.cli.output import facts, print_json, say, tabulate
from orchestrator.cli.run.run import Target, output_aside
from orchestrator.provenance.markup import cell_text, duration_text
from orchestrator.wording import counted

if TYPE_CHECKING:
    from orchestrator.application.estimate import Estimate, QpuEstimate
    from orchestrator.application.wait import ExpectedWait

__all__ = ["estimate", "wait_text"]


def estimate(
    target: Target,
    parameter: Parameters = None,
    qpu: Qpu = None,
    site: SiteFile = None,
    setting: Settings = None,
    noise: Annotated[
        bool, typer.Option("--noise", help="Simulate the QPU's errors, too; it takes longer.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show Prefect's log of the dry run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a flow dry, on simulators, and report what a real run will use and cost."""
    from orchestrator.application.estimate import dry_run
    from orchestrator.application.parameters import assignments
    from orchestrator.application.run import RunRequest
    from orchestrator.cli.run.progress import Terminal

    request = RunRequest(
        flow=target,
        parameters=assignments(parameter or ()),
        as_text=True,
        qpu=qpu,
        site=site,
        settings=setting or (),
        noisy=noise,
        verbose=verbose,
    )
    with output_aside(wanted=True):
        found = dry_run(request, Terminal())
    _print_estimate(found, as_json=as_json)


def _print_estimate(estimate: Estimate, *, as_json: bool) -> None:
    """Print a table with a row per QPU, the assumptions, and a closing sentence."""
    if as_json:
        print_json(_document(estimate))
        return
    columns = ("QPU", "jobs", "tasks", "circuits", "shots", "QPU-seconds", "cost", "waits")
    tabulate(columns, [_row(qpu) for qpu in estimate.qpus])
    runs = {
        kind: sum(stage.runs for stage in estimate.stages if stage.kind == kind)
        for kind in ("classical", "quantum")
    }
    facts(
        {
            "stages": f"{runs['classical']} classical, {runs['quantum']} quantum",
            "classical": f"{_core_time(estimate.core_hours)}, as measured on this machine",
        }
    )
    for qpu in estimate.qpus:
        for note in qpu.notes:
            say(f"{qpu.qpu}: {note}", style="dim")
    say(_closing(estimate))


def _row(qpu: QpuEstimate) -> list[Any]:
    seconds = qpu.qpu_seconds
    return [
        *(qpu.qpu, qpu.jobs, qpu.tasks, qpu.circuits, qpu.shots),
        None if seconds is None else round(seconds, 3),
        _cost(qpu),
        wait_text(qpu.wait),
    ]


def _cost(qpu: QpuEstimate) -> str:
    if qpu.charges is None:
        return "not known"
    return ", ".join(f"{cell_text(a)} {unit}" for unit, a in qpu.charges.items()) or "nothing"


def _core_time(core_hours: float) -> str:
    if core_hours < 0.1:
        return f"{core_hours * 3600:.3g} core-seconds"
    return f"{core_hours:.3g} core-hours"


def _closing(estimate: Estimate) -> str:
    if not estimate.qpus:
        return "A run will use no QPU. Nothing was spent."
    sentences = []
    for qpu in estimate.qpus:
        seconds = qpu.qpu_seconds
        on = "for a time not known" if seconds is None else f"for about {duration_text(seconds)}"
        sentences.append(
            f"{counted(qpu.jobs, 'quantum job')} with {counted(qpu.shots, 'shot')} on "
            f"{qpu.qpu} {on}, "
            f"at a cost of {_cost(qpu)}"
        )
    return f"A run will take {'; '.join(sentences)}. Nothing was spent."


def wait_text(wait: ExpectedWait) -> str:
    """Return the expected wait in one cell of a table."""
    from orchestrator.broker.core.rules import in_utc

    words = ["not known" if wait.waiting_s is None else duration_text(wait.waiting_s)]
    if wait.waiting_s == 0:
        words = ["no"]
    if wait.stopped:
        words.append(f"the QPU is {wait.stopped}")
    if wait.closed_until:
        words.append(f"closed until {in_utc(wait.closed_until)}: {wait.closure}")
    if wait.jobs_ahead:
        words.append(f"{counted(wait.jobs_ahead, 'job')} ahead")
    return ", ".join(words)


def _document(estimate: Estimate) -> dict[str, Any]:
    """Return an estimate as JSON types, with the wait among the figures of a QPU."""
    document = asdict(estimate)
    for qpu in document["qpus"]:
        until = (wait := qpu.pop("wait"))["closed_until"]
        wait["closed_until"] = until and until.isoformat(timespec="seconds")
        qpu.update(wait)
    return document
