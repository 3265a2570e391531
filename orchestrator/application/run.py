"""A run: everything is checked before the flow is executed."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.application.budget_check import (
    agree_with_service,
    budget_texts,
    check_units,
    idle_budgets,
    qpus_of,
)
from orchestrator.application.couplings import coupling_in_force
from orchestrator.application.execution import RunExecution, RunPlan, RunResult, Watcher
from orchestrator.application.jobs import check_ledger
from orchestrator.application.parameters import bound_parameters, checked_parameters
from orchestrator.application.prefect_setup import (
    launch_server,
    logs_to_file,
    prepare,
    server_if_needed,
    visible_logs,
)
from orchestrator.application.qpus import dry_site, target_from_settings
from orchestrator.application.slurm_check import check_options, check_slurm
from orchestrator.application.target import load_flow, stages_beside, target_of
from orchestrator.arguments import expect
from orchestrator.broker.runtime.site_rules import check_schedules
from orchestrator.config.environment import (
    hand_down,
    own_environment_kept,
    prepare_prefect,
    services_are_chosen,
    shared_cluster,
    variable,
)
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site, lookup
from orchestrator.config.private import close_to_others
from orchestrator.config.site import Coupling, Site
from orchestrator.data_labels import all_labels
from orchestrator.identity import checked_run_id, dated_run_id, lock_file_name
from orchestrator.inputs import check_inputs
from orchestrator.names import ANY
from orchestrator.provenance.folder import RunFolder
from orchestrator.provenance.schema import RecordedCoupling, RecordError, RunRecord, read_record
from orchestrator.provenance.values import json_value
from orchestrator.runs import one_run

if TYPE_CHECKING:
    from prefect import Flow

__all__ = [
    "CheckedRun",
    "RunRequest",
    "bound_request",
    "checked_run",
    "execute",
    "run_flow",
    "undisturbed",
    "with_gate",
    "with_prediction",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What to run, and where."""

    flow: Flow[..., Any] | str  # a Prefect flow, or a target as on the command line
    parameters: Mapping[str, Any] = field(default_factory=dict)
    as_text: bool = False  # parameters are texts, read as the flow's annotations ask
    qpu: str | None = None
    site: Path | str | None = None
    settings: Sequence[str] = ()  # changes to the site, as KEY=VALUE
    out: Path | str | None = None
    run_id: str | None = None
    budgets: Mapping[str, float | None] = field(default_factory=dict)
    coupling: str | None = None  # None for the site's
    choice: RecordedCoupling | None = None  # what `auto` has chosen
    verbose: bool = False  # do not send Prefect's log to a file
    use_agent: bool = True  # of the same site, if one is running
    scratch: Path | None = None  # folder of a dry run, on simulators; an interrupt removes it
    by_driver_job: bool = False  # another process will run it, in a Slurm job
    noisy: bool = False  # whether a dry run simulates the QPUs' errors
    is_driver_job: bool = False  # this process is in a Slurm job that was submitted for the run


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRun:
    """A run of which everything is checked that can be before its start."""

    plan: RunPlan
    flow: Flow[..., Any]
    parameters: dict[str, Any]


def run_flow(
    flow: Flow[..., Any] | str,
    parameters: Mapping[str, Any] | None = None,
    *,
    qpu: str | None = None,
    site: Path | str | None = None,
    settings: Sequence[str] = (),
    out: Path | str | None = None,
    run_id: str | None = None,
    budgets: Mapping[str, float | None] | None = None,
    coupling: Coupling | None = None,
    agent: bool = True,
    verbose: bool = False,
    check: bool = True,
) -> RunResult:
    """Run a flow as ``hpcqc run`` does, and return its value with its record.

    It works in scripts and in notebooks, also for a flow that a cell defines. The flow runs in a
    thread of its own, so a running event loop does not matter. One run at a time.

    An interrupt (Ctrl-C, or the notebook's stop button) cancels the run's quantum jobs, ends its
    workers, writes its record, and is raised as ``KeyboardInterrupt``; the process goes on.

    Args:
        flow: A Prefect flow, ``"path/to/file.py:flow"``, or the name of a ready flow such as
            ``"flows.maxcut"``.
        parameters: Values of the flow's parameters by name.
        qpu: QPU of the quantum stages that pin none; None for ``HPCQC_QPU`` or the site's default.
        site: Path of a site file; None for the one that the usual lookup finds.
        settings: Changes to the site, such as ``"qpu.vlq.time_scale=1"``.
        out: Folder of this run; None for ``hpcqc-runs/RUN-ID``.
        run_id: Name of the run; that of an earlier run continues it.
        budgets: By unit, what the run's quantum jobs may cost in all; None lifts a limit.
        coupling: How classical and quantum stages share nodes and QPU in time: ``"exclusive"``,
            ``"split"``, ``"multiplexed"``, ``"malleable"``, ``"gated"``, or ``"auto"`` for the best
            one by prediction. None for the site's.
        agent: Use the Prefect server, the broker and the workers of a running agent of the site.
        verbose: Leave Prefect's log where it goes instead of filing it in ``run.log``.
        check: Raise the error of a flow that fails. With False, return a result whose ``status``
            is ``"failed"`` and whose ``error`` is that error.

    Returns:
        The flow's value, the run's record, its folder, and how it ended.

    Raises:
        TargetError: The flow cannot be found or imported.
        ParameterError: A parameter is unknown, missing or of another type.
        ConfigError: The site file, the run id or a budget is wrong.
        FolderError: The folder cannot be written, or belongs to another run.
        RunBusy: This process, or another one with the same run id, is running a flow.
        KeyboardInterrupt: The run was interrupted.
        Exception: What the flow raised, with a note that names the run and its folder.
    """
    expect("parameters", parameters, (Mapping, type(None)), "a mapping of names to values")
    expect("budgets", budgets, (Mapping, type(None)), "a mapping of units to amounts")
    request = RunRequest(
        flow=flow,
        parameters=dict(parameters or {}),
        qpu=qpu or variable("HPCQC_QPU"),
        site=site,
        settings=settings,
        out=out,
        run_id=run_id,
        budgets=dict(budgets or {}),
        coupling=coupling,
        use_agent=agent,
        verbose=verbose,
    )
    with undisturbed():
        result = execute(request, Watcher())
    if check and result.error is not None:
        result.error.add_note(f"run {result.id} failed; its record is in {result.folder}")
        raise result.error
    return result


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave the environment as it was: this process has more to do than a run."""
    prepare()
    import prefect  # noqa: F401 - it reads the environment once, before a run changes it

    with own_environment_kept():
        yield


def execute(request: RunRequest, watcher: Watcher) -> RunResult:
    """Run a flow; raise ``ValueError`` subclasses before its start, return later failures."""
    if request.scratch is None and _asks_for_prediction(request):
        from orchestrator.application.plan import automatic

        choice = _earlier_choice(request) or automatic(request)
        request = replace(request, coupling=choice.chosen, choice=choice)
    return _execute(request, watcher)


def _asks_for_prediction(request: RunRequest) -> bool:
    site = load_site(request.site, request.settings)
    return coupling_in_force(site, request.coupling) == "auto"


def _earlier_choice(request: RunRequest) -> RecordedCoupling | None:
    """Return what an earlier attempt of the run has chosen."""
    plan = _checked(request)
    try:
        record = read_record(plan.folder.path)
    except RecordError:
        return None
    return record.coupling if record.id == plan.id else None


@one_run()
def _execute(request: RunRequest, watcher: Watcher) -> RunResult:
    plan = _checked(request)
    offered = _offered_by_agent(plan, request)
    if offered is not None:
        prepare_prefect(offered)
        # The user named no server, so a password in the environment is another one's.
        hand_down({"PREFECT_API_AUTH_STRING": offered.get("PREFECT_API_AUTH_STRING", "")})
        plan = replace(_checked(replace(request, run_id=plan.id)), agent=offered)
    close_to_others(plan.site.state_dir)
    server = launch_server()
    if plan.site.broker.url is None:
        check_ledger(plan.site.state_dir)  # loads SQLAlchemy; meanwhile the server starts
    checked = _with_flow(plan, request, watcher.warn)
    plan = with_gate(plan, checked)
    earlier = plan.folder.open(plan.id, plan.target.text)
    try:
        _check_broker(plan, earlier)
        plan = with_prediction(plan, checked, earlier)
        execution = RunExecution(
            plan,
            checked.flow,
            checked.parameters,
            server=server or server_if_needed(),
            earlier=earlier,
            watcher=watcher,
        )
        if request.verbose:
            with visible_logs(execution.is_closing):
                return execution.run()
        with logs_to_file(
            plan.folder.path / "run.log",
            for_good=not watcher.goes_on,
            is_closing=execution.is_closing,
        ):
            return execution.run()
    finally:
        plan.folder.close()


def with_gate(plan: RunPlan, checked: CheckedRun) -> RunPlan:
    """Say how long the run works before its first quantum stage, where a gate goes by that."""
    if plan.coupling != "gated" or plan.site.broker.url is None:
        return plan
    from orchestrator.application.plan import classical_work_before

    after_s = None if plan.choice is None else plan.choice.quantum_after_s
    if after_s is None:
        after_s = classical_work_before(plan, checked.flow, json_value(checked.parameters))
    return replace(plan, quantum_after_s=after_s)


def with_prediction(plan: RunPlan, checked: CheckedRun, earlier: RunRecord | None) -> RunPlan:
    """Say what a run in a stated coupling should take, if a run like it is known.

    earlier: the record of the run's last attempt, whose prediction stays: it was made before work began.
    """
    if plan.choice is not None or not plan.coupling:
        return plan
    from orchestrator.application.plan import predicted_uses

    before = None if earlier is None else earlier.coupling
    if before is not None and before.predicted:
        predicted = before.predicted
    else:
        predicted = dict(predicted_uses(plan, checked.flow, json_value(checked.parameters)))
    choice = RecordedCoupling(chosen=plan.coupling, predicted=predicted)
    return replace(plan, choice=choice)


def bound_request(request: RunRequest, flow: Flow[..., Any]) -> Any:
    """Return a run's parameters as its record has them. Raises ``ParameterError``."""
    bound = bound_parameters if request.as_text else checked_parameters
    return json_value(bound(flow.fn, request.parameters))


def checked_run(request: RunRequest, warn: Callable[[str], None]) -> CheckedRun:
    """Check a run without starting it. Raises what `run_flow` raises before its start."""
    prepare()
    plan = _checked(request)
    close_to_others(plan.site.state_dir)
    if plan.site.broker.url is None:
        check_ledger(plan.site.state_dir)
    return _with_flow(plan, request, warn)


def _with_flow(plan: RunPlan, request: RunRequest, warn: Callable[[str], None]) -> CheckedRun:
    """Import the flow, and check it with its parameters, its pins, demands and budgets."""
    flow = load_flow(plan.target)
    bound = bound_parameters if request.as_text else checked_parameters
    parameters = bound(flow.fn, request.parameters)
    check_inputs(flow.fn, parameters)
    _check_stages(plan, flow, starts_here=not request.by_driver_job)
    # A plain flow is spared Qiskit's import. What is wrong with one of several is for the choice.
    if plan.qpu != ANY and (plan.qpu is not None or "qiskit" in sys.modules):
        for settings in plan.site.qpus_for(plan.qpu):
            target_from_settings(settings)
    agree_with_service(plan.site, plan.id, plan.budgets)
    for words in idle_budgets(plan.site, qpus_of(flow, plan.site, plan.qpu), plan.budgets):
        warn(words)
    return CheckedRun(plan=plan, flow=flow, parameters=parameters)


def _checked(request: RunRequest) -> RunPlan:
    """Check what can be checked without importing the flow. Raises ``ValueError`` subclasses."""
    from backends import registry
    from backends.plugins import UnknownPlugin

    target = target_of(request.flow)
    new_id = dated_run_id(datetime.now(UTC), uuid.uuid4().hex[:6])
    run_id = request.run_id or variable("HPCQC_RUN_ID") or new_id
    checked_run_id(run_id)
    budget_texts(request.budgets)
    site, site_file = load_site(request.site, request.settings), lookup(request.site)
    check_schedules(site.qpus.values(), datetime.now(UTC))
    if request.scratch is not None:
        site = dry_site(site, request.scratch, noisy=request.noisy)
    known = registry.available()
    for qpu in site.qpus_for(request.qpu) if request.qpu != ANY else ():
        if qpu.backend not in known:
            raise UnknownPlugin(
                f"QPU {qpu.name!r} needs backend {qpu.backend!r}; "
                f"installed are: {', '.join(known) or 'none'}"
            )
    shared_cluster()
    folder = RunFolder(Path(request.out or Path("hpcqc-runs") / run_id).expanduser())
    folder.check()
    site = _with_earlier_labels(site, folder, run_id)
    check_units(site, request.budgets)
    return RunPlan(
        id=run_id,
        site=site,
        target=target,
        folder=folder,
        qpu=request.qpu,
        budgets=request.budgets,
        agent=None,
        scratch=request.scratch,
        site_file=None if site_file is None else site_file.absolute(),
        settings=request.settings,
        is_driver_job=request.is_driver_job,
        choice=request.choice,
        coupling="" if request.scratch else coupling_in_force(site, request.coupling),
    )


def _with_earlier_labels(site: Site, folder: RunFolder, run_id: str) -> Site:
    """Return the site with the labels that data of this run had in an earlier attempt, too."""
    try:
        record = read_record(folder.path)
    except RecordError:
        return site
    if record.id != run_id or not record.site.labels:
        return site
    labels = all_labels(site.project_labels(None), record.site.labels)
    return site.model_copy(update={"labels": list(labels)})


def _offered_by_agent(plan: RunPlan, request: RunRequest) -> Mapping[str, str] | None:
    """Return the variables of a running agent's services that the user has not chosen."""
    # The broker of an earlier attempt stays: its ledger has the run's jobs.
    if plan.scratch is not None or not request.use_agent or services_are_chosen():
        return None
    if not os.access(plan.site.state_dir / "agent", os.F_OK):  # False for a name too long
        return None
    from orchestrator.agent.control import agent_environment

    offered = agent_environment(plan.site)
    before = plan.folder.broker_of(plan.id)
    own_ledger = plan.site.state_dir / "runs" / lock_file_name(plan.id)
    if offered is None or own_ledger.exists():
        return None
    return offered if before in (None, offered["HPCQC_BROKER_URL"]) else None


def _check_broker(plan: RunPlan, earlier: RunRecord | None) -> None:
    """Refuse to continue a run at a broker that does not know its jobs: they would run again."""
    if earlier is None or not earlier.jobs:
        return
    before, now = plan.folder.broker_of(plan.id), plan.site.broker.url
    if before != now:
        raise ConfigError(
            f"run {plan.id!r} has its quantum jobs at {_broker_name(before)}, and would now use "
            f"{_broker_name(now)}, where they would run again; use the broker of before, or "
            "another run id"
        )


def _broker_name(url: str | None) -> str:
    return "the broker of its own process" if url is None else f"the broker {url}"


def _check_stages(plan: RunPlan, flow: Flow[..., Any], *, starts_here: bool) -> None:
    """Check what the stages ask of the site and of its batch system.

    starts_here: whether this machine runs the flow.

    Raises ``ConfigError``, ``DemandNotMet`` or ``SlurmRefused``.
    """
    site, qpu = plan.site, plan.qpu
    computes, qpus = {}, {}
    for name, needs in stages_beside(flow).items():
        try:
            if needs.kind == "quantum":
                for found in site.qpus_for(needs.where or qpu):
                    qpus[found.name] = found
            else:
                site.compute(needs.where)
        except ConfigError as error:
            raise ConfigError(f"stage {name!r} is pinned: {error}") from None
        if needs.kind == "classical":
            from orchestrator.compute.kinds import (
                check_demand,
                check_fits_one_job,
                open_compute,
                settings_in_force,
            )

            settings = settings_in_force(site, needs.where)
            open_compute(settings).close()
            check_demand(name, needs.demand, settings)
            if plan.coupling == "exclusive":
                check_fits_one_job(name, needs.demand, settings)
            computes[settings.name] = settings
    check_options(site, computes.values(), starts_here=starts_here)
    check_slurm(site, computes.values(), qpus.values())
