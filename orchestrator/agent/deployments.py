"""Flows on the agent: Prefect deployments on its work pool, and their runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from orchestrator.agent.control import status_of
from orchestrator.agent.folder import AgentError, AgentFolder
from orchestrator.agent.plan import prefect_environment
from orchestrator.config.environment import hand_down

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.responses import DeploymentResponse

__all__ = ["Deployments", "FlowRunView", "FlowSource", "attach"]

_EVERY_S = 0.5
_MOST = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowSource:
    """Where a flow is. text: as the user gave it; file: None for a flow of an installed package."""

    text: str
    file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRunView:
    """A flow run as Prefect has it. id: also that of the hpcqc run. seconds: how long it ran.

    result: what a completed run returned, where it was asked for; unread: why it cannot be read.
    """

    id: UUID
    name: str
    deployment: str | None
    state: str
    message: str | None
    started_at: datetime | None
    seconds: float
    parameters: Mapping[str, Any]
    url: str
    result: Any = None
    unread: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether the run has ended; the agent schedules a killed one again."""
        return self.state in ("Completed", "Failed", "Cancelled", "Crashed")


def attach(folder: AgentFolder) -> Deployments:
    """Before Prefect's import, set its variables for the running agent, or raise `AgentError`."""
    status = status_of(folder)
    if status.phase in ("stopped", "stopping") or "prefect_api" not in status.addresses:
        raise AgentError("no agent is running; start one with `hpcqc agent start`")
    api_url = status.addresses["prefect_api"]
    own = "prefect" in status.children
    hand_down(prefect_environment(folder.path.parent, api_url, own=own))
    return Deployments(pool=status.pool, page=status.addresses["prefect"], site=status.site)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployments:
    """The deployments of an agent. page: Prefect's UI; site: the agent's site file, if any."""

    pool: str
    page: str
    site: Path | None

    def deploy(self, flow: Flow[..., Any], source: FlowSource, name: str) -> str:
        """Deploy a flow under a name, or replace the deployment of that name; return ``FLOW/NAME``."""
        from prefect.utilities.callables import parameter_schema

        entrypoint, variables = _entrypoint(flow, source)
        with _client() as client:
            flow_id = client.create_flow(flow)
            client.create_deployment(
                flow_id=flow_id,
                name=name,
                work_pool_name=self.pool,
                tags=["hpcqc"],
                entrypoint=entrypoint,
                pull_steps=_pull_steps(source),
                parameter_openapi_schema=parameter_schema(flow).model_dump_for_openapi(),
                enforce_parameter_schema=True,
                job_variables=variables,
                description=flow.description,
            )
        return f"{flow.name}/{name}"

    def find(self, name: str) -> DeploymentResponse | None:
        """Return the deployment ``NAME`` or ``FLOW/NAME``; `AgentError` if several have it."""
        with _client() as client:
            known = self._known(client)
            names = {item.flow_id: client.read_flow(item.flow_id).name for item in known}
        found = [d for d in known if name in (d.name, f"{names[d.flow_id]}/{d.name}")]
        if len(found) > 1:
            listed = ", ".join(f"{names[item.flow_id]}/{item.name}" for item in found)
            raise AgentError(f"several flows are deployed as {name!r}; give one of: {listed}")
        return found[0] if found else None

    def names(self) -> list[str]:
        """Return the names that can be submitted."""
        with _client() as client:
            return sorted(item.name for item in self._known(client))

    def submit(
        self,
        deployment: UUID,
        parameters: Mapping[str, Any],
        folder: Path,
        environment: Mapping[str, str],
    ) -> FlowRunView:
        """Start a run of a deployment. folder: where relative paths in its parameters begin."""
        variables: dict[str, Any] = {"working_dir": str(folder)}
        if environment:
            variables["env"] = dict(environment)
        with _client() as client:
            run = client.create_flow_run_from_deployment(
                deployment, parameters=dict(parameters), job_variables=variables
            )
            return self._view(client, run)

    def runs(self, limit: int) -> list[FlowRunView]:
        """Return the latest runs on the agent's work pool, the latest first."""
        from prefect.client.schemas.sorting import FlowRunSort

        with _client() as client:
            found = client.read_flow_runs(
                work_pool_filter=_in_pool(self.pool),
                sort=FlowRunSort.EXPECTED_START_TIME_DESC,
                limit=min(limit, _MOST),
            )
            return [self._view(client, run) for run in found]

    def run(self, start_of_id: str) -> FlowRunView:
        """Return one run by its id or the start of it. Raises `AgentError`."""
        found = [view for view in self.runs(_MOST) if str(view.id).startswith(start_of_id)]
        if len(found) != 1:
            count = "no run" if not found else f"{len(found)} runs"
            raise AgentError(f"{count} with id {start_of_id!r}; `hpcqc runs` lists them")
        return found[0]

    def wait(self, run: UUID, report: Callable[[FlowRunView], None]) -> FlowRunView:
        """Block until a run has ended and is not scheduled again; report each new state."""
        reported, crashed = "", 0.0
        with _client() as client:
            while True:
                view = self._view(client, client.read_flow_run(run))
                if view.state != reported:
                    report(view)
                    reported, crashed = view.state, time.monotonic()
                patient = view.state == "Crashed" and time.monotonic() - crashed < 10.0
                if view.is_final and not patient:
                    return view
                time.sleep(_EVERY_S)

    def cancel(self, run: UUID) -> FlowRunView:
        """Ask for a run's end; return it as it was before. One that has ended stays as it is."""
        from prefect.states import Cancelled, Cancelling

        with _client() as client:
            view = self._view(client, client.read_flow_run(run))
            if not view.is_final:
                begun = view.started_at is not None or view.state in ("Pending", "Running")
                client.set_flow_run_state(run, Cancelling() if begun else Cancelled())
        return view

    def result(self, run: UUID) -> Any:
        """Return the result of a completed run. Raises any error in reading it."""
        with _client() as client:
            state = client.read_flow_run(run).state
        return None if state is None else state.result(raise_on_failure=True)

    def _known(self, client: SyncPrefectClient) -> Sequence[DeploymentResponse]:
        from prefect.client.schemas.sorting import DeploymentSort

        return client.read_deployments(
            work_pool_filter=_in_pool(self.pool), sort=DeploymentSort.NAME_ASC, limit=_MOST
        )

    def _view(self, client: SyncPrefectClient, run: FlowRun) -> FlowRunView:
        name = client.read_deployment(run.deployment_id).name if run.deployment_id else None
        state = run.state
        return FlowRunView(
            id=run.id,
            name=run.name,
            deployment=name,
            state=(state.name if state and state.name else "Unknown"),
            message=state.message if state else None,
            started_at=run.start_time,
            seconds=run.total_run_time.total_seconds(),
            parameters=run.parameters,
            url=f"{self.page}/runs/flow-run/{run.id}",
        )


def _entrypoint(flow: Flow[..., Any], source: FlowSource) -> tuple[str, dict[str, Any]]:
    """Return where Prefect finds the flow, and the job variables that spare it looking."""
    name = flow.fn.__name__
    if source.file is None:
        place = path = f"{flow.fn.__module__}.{name}"
        folder = Path.cwd()
    else:
        place, path = f"{source.file.name}:{name}", f"{source.file}:{name}"
        folder = source.file.parent
    # The engine takes this variable before a deployment's pull steps, which would leave the
    # process in another folder than the one that a parameter's relative path begins in.
    environment = {"PREFECT__FLOW_ENTRYPOINT": path, "HPCQC_TARGET": source.text}
    return place, {"working_dir": str(folder), "env": environment}


def _pull_steps(source: FlowSource) -> list[dict[str, Any]]:
    """Return what a worker that is not ours needs to find the flow."""
    if source.file is None:
        return []
    step = "prefect.deployments.steps.set_working_directory"
    return [{step: {"directory": str(source.file.parent)}}]


def _in_pool(pool: str) -> Any:
    from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName

    return WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))


def _client() -> SyncPrefectClient:
    from prefect.client.orchestration import get_client

    return get_client(sync_client=True)
