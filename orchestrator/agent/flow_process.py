"""One flow run of the agent: Prefect's engine, in a process that knows its site and its run id.

The worker starts it for each flow run. The id of the hpcqc run is that of the Prefect flow run, so
that a flow run that is scheduled again goes on where it was.
"""

from __future__ import annotations

import logging
import queue
import re
import runpy
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from orchestrator.agent.folder import FlowRecords
from orchestrator.agent.lifeline import PARENT, end_with
from orchestrator.agent.processes import MARKER, ProcessIdentity
from orchestrator.config.environment import budgets_of_environment, process_environment, variable
from orchestrator.config.loading import load_site
from orchestrator.retention import hold_run

if TYPE_CHECKING:
    from orchestrator.broker.core.views import JobView
    from orchestrator.config.site import Site
    from orchestrator.runs import StageSpan

__all__ = ["BROKER_PAGE", "JobArtifacts", "jobs_markdown", "main"]


# The variable with the address of the broker's page.
BROKER_PAGE = "HPCQC_AGENT_BROKER_PAGE"

_FINISH_S = 10.0
_log = logging.getLogger(__name__)


def jobs_markdown(stage: StageSpan, jobs: Sequence[JobView], page: str | None) -> str:
    """Return a table of a stage's jobs. page: address of the broker's page, if it has one."""
    head = f"Stage `{stage.name}` on QPU `{stage.where}`: {stage.state}."
    if page is not None:
        head += f" [The broker's page]({page})"
    if not jobs:
        return head
    rows = [
        f"| {_link(job.id, page)} | {job.state.value} | {job.shots or '–'} | {len(job.tasks)} "
        f"| {job.usage.qpu_seconds:.3g} s |"
        for job in jobs
    ]
    table = "| job | state | shots | tasks | on the QPU |\n|---|---|---|---|---|"
    return "\n".join([head, "", table, *rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Noted:
    """A change of a stage. task: the stage's own name; run: its task run in Prefect."""

    span: StageSpan
    task: str
    run: UUID | None = None


def _link(job: str, page: str | None) -> str:
    shown = f"`{job[:11]}`"
    return shown if page is None else f"[{shown}]({page}/#job={job})"


# The artifact exists from the stage's start, so that its link works while the stage waits.
class JobArtifacts:
    """Keeps a Prefect artifact for each quantum stage, or none if the server does not answer."""

    def __init__(
        self, flow_run: UUID, jobs_of: Callable[[str], Sequence[JobView]], page: str | None
    ) -> None:
        """Store these. jobs_of: returns the jobs of a stage by its key; called from a thread."""
        self._flow_run, self._jobs_of, self._page = flow_run, jobs_of, page
        self._spans: queue.SimpleQueue[_Noted | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._made: dict[str, UUID] = {}

    def note(self, span: StageSpan) -> None:
        """Take a change of a stage; returns at once."""
        if span.kind != "quantum" or span.state == "cached":
            return
        from prefect.context import TaskRunContext

        context = TaskRunContext.get()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="artifacts", daemon=True)
            self._thread.start()
        if context is None:  # called as a plain function, outside any task
            self._spans.put(_Noted(span=span, task=span.name))
        else:
            self._spans.put(_Noted(span=span, task=context.task.name, run=context.task_run.id))

    def finish(self) -> None:
        """Return when the server has all artifacts, or after a timeout."""
        if self._thread is not None:
            self._spans.put(None)
            self._thread.join(_FINISH_S)

    def _work(self) -> None:
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            while (noted := self._spans.get()) is not None:
                try:
                    self._show(client, noted)
                except Exception as error:  # noqa: BLE001 - a display must not fail the run
                    _log.info("no artifact for stage %s: %s", noted.task, error)

    def _show(self, client: Any, noted: _Noted) -> None:
        from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

        span = noted.span
        text = jobs_markdown(span, self._jobs_of(span.key), self._page)
        if span.key in self._made:
            client.update_artifact(self._made[span.key], ArtifactUpdate(data=text))
            return
        created = client.create_artifact(
            ArtifactCreate(
                key="jobs-" + re.sub(r"[^a-z0-9]+", "-", noted.task.lower()).strip("-"),
                type="markdown",
                description="Quantum jobs of this stage",
                data=text,
                flow_run_id=self._flow_run,
                task_run_id=noted.run,
            )
        )
        self._made[span.key] = created.id


def main() -> None:
    """Run the flow run that the environment names, and end with Prefect's exit code."""
    environment = process_environment()
    flow_run = environment["PREFECT__FLOW_RUN_ID"]
    records = FlowRecords(folder=Path(environment[MARKER]) / "flows")
    records.add(flow_run, ProcessIdentity.own())
    # The process that continues this run must find it silent: no last report to Prefect.
    end_with(int(environment[PARENT]), grace_s=0.0)
    entrypoint = environment.get("PREFECT__FLOW_ENTRYPOINT", "").rpartition(":")[0]
    if entrypoint.endswith(".py"):  # neighbours of the flow's file come first, as for a script
        sys.path.insert(0, str(Path(entrypoint).parent))
    site = load_site()
    try:
        _run(flow_run, site)
    finally:
        records.remove(flow_run)


def _run(flow_run: str, site: Site) -> None:
    from orchestrator import runs

    run = runs.Run(
        id=flow_run, site=site, qpu=variable("HPCQC_QPU"), budgets=budgets_of_environment()
    )
    artifacts = JobArtifacts(
        UUID(flow_run),
        lambda stage: _jobs(flow_run, stage),
        process_environment().get(BROKER_PAGE),
    )
    run.observers.append(artifacts.note)
    runs.activate(run)
    held = hold_run(site.state_dir, flow_run)
    try:
        runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
    finally:
        held.close()
        artifacts.finish()
        if "orchestrator.resources" in sys.modules:
            from orchestrator.resources import shutdown

            shutdown()


def _jobs(run: str, stage: str) -> Sequence[JobView]:
    from orchestrator.broker.client.http import RemoteBroker
    from orchestrator.resources import resources

    broker = resources().broker()
    known = broker.jobs(run) if isinstance(broker, RemoteBroker) else []
    return [job for job in known if job.stage == stage]


if __name__ == "__main__":
    main()
