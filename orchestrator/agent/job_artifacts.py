"""Each quantum stage's jobs as a Prefect artifact, beside its task run in Prefect's UI."""

from __future__ import annotations

import logging
import queue
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from orchestrator.broker.core.views import JobView
    from orchestrator.runs import StageSpan

__all__ = ["BROKER_PAGE", "JobArtifacts", "jobs_markdown"]

# Under which flows find the address of the broker's page.
BROKER_PAGE = "HPCQC_AGENT_BROKER_PAGE"

_FAREWELL_S = 10.0
_log = logging.getLogger(__name__)


def jobs_markdown(stage: StageSpan, jobs: Sequence[JobView], page: str | None) -> str:
    """Return what is shown of a stage's jobs. page: address of the broker's page, if it has one."""
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


class JobArtifacts:
    """An observer of a run's spans that keeps one artifact for each quantum stage.

    The artifact is there when the stage starts, so that the link can be followed while it waits,
    and gets its table at the stage's end. A server that does not answer costs the artifact and
    nothing else.
    """

    def __init__(
        self, flow_run: UUID, jobs_of: Callable[[str], Sequence[JobView]], page: str | None
    ) -> None:
        """Take note. jobs_of: returns the jobs of a stage by its key; called from a thread."""
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
        """Return when everything noted is with the server, or that took too long."""
        if self._thread is not None:
            self._spans.put(None)
            self._thread.join(_FAREWELL_S)

    def _work(self) -> None:
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            while (noted := self._spans.get()) is not None:
                try:
                    self._show(client, noted)
                except Exception as error:  # noqa: BLE001 - what is shown must not fail what is done
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
