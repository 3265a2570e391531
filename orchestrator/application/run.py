"""A run: everything is checked, then the flow runs, then its folder is written."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import traceback
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from orchestrator import runs
from orchestrator.application.budget_check import (
    agree_with_service,
    budget_texts,
    check_units,
    idle_budgets,
    qpus_of,
)
from orchestrator.application.dry_site import dry_site
from orchestrator.application.errors import is_mistake, place_of, reason
from orchestrator.application.flow_thread import FlowThread
from orchestrator.application.jobs import JobsOfRun, check_ledger
from orchestrator.application.one_run import one_run
from orchestrator.application.parameters import bound_parameters, checked_parameters
from orchestrator.application.prefect_setup import (
    TemporaryServer,
    launch_server,
    logs_to_file,
    on_server,
    prepare,
    server_if_needed,
)
from orchestrator.application.target import FlowTarget, load_flow, stages_beside, target_of
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
from orchestrator.config.loading import load_site
from orchestrator.config.private import close_to_others
from orchestrator.config.site import Site
from orchestrator.doctor import machine, versions
from orchestrator.identity import checked_run_id, dated_run_id, lock_file_name
from orchestrator.inputs import check_inputs
from orchestrator.provenance.folder import RunFolder
from orchestrator.provenance.outcome import Outcome, outcome_of
from orchestrator.provenance.record import merged_stages, run_record, site_document
from orchestrator.provenance.schema import (
    RecordedAttempt,
    RecordedSite,
    RecordedUsage,
    RunRecord,
    RunStatus,
    RunUsage,
)
from orchestrator.provenance.values import json_value
from orchestrator.retention import hold_run

if TYPE_CHECKING:
    from prefect import Flow

    from orchestrator.broker.core.views import JobView
    from orchestrator.runs import StageSpan

__all__ = [
    "Display",
    "Ending",
    "RunHooks",
    "RunRequest",
    "RunResult",
    "RunView",
    "execute",
    "run_flow",
    "undisturbed",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What to run, and where.

    flow: a Prefect flow, or a target as on the command line. parameters: by name; as_text: their
    values are texts to be read as the flow's annotations ask. settings: changes to the site, as
    ``KEY=VALUE``. use_agent: use the services of an agent that is running for the same site.
    verbose: leave Prefect's log where it goes instead of filing it.
    scratch: set for a dry run, which stays inside this folder: simulators stand in for the QPUs,
    and an interrupt removes the folder.
    """

    flow: Flow[..., Any] | str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    as_text: bool = False
    qpu: str | None = None
    site_file: Path | None = None
    settings: Sequence[str] = ()
    out: Path | None = None
    run_id: str | None = None
    budgets: Mapping[str, float | None] = field(default_factory=dict)
    verbose: bool = False
    use_agent: bool = True
    scratch: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a run ended.

    value: what the flow returned, None unless it completed. record: the content of ``run.json``.
    folder: where the record, the result and the report are. error: why the flow failed, None if
    it completed. place: file and line of the user's code in which it failed, if that is known.
    is_mistake: whether the user must change something before the flow can work. outcome: what of
    the value the report shows.
    """

    id: str
    status: Literal["completed", "failed"]
    value: Any
    record: RunRecord
    folder: Path
    error: BaseException | None = None
    place: str | None = None
    is_mistake: bool = False
    outcome: Outcome = field(default_factory=Outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """What can be seen of a run while it goes on, from any thread.

    standstills: why nothing starts on QPUs, a line for each of which that is so.
    """

    spans: Callable[[], list[StageSpan]]
    jobs: Callable[[], list[JobView]]
    standstills: Callable[[Collection[str]], list[str]]


class Display(Protocol):
    """Shows how far a run is. `tick` is called about ten times a second, from one thread."""

    def start(self) -> None:
        """Begin to show."""

    def tick(self) -> None:
        """Refresh what is due."""

    def stop(self) -> None:
        """End; stopping twice does nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an interrupted run is brought to its end.

    close: cancels its quantum jobs and ends its workers. stop_flow: returns when the flow's thread
    has ended, or will not. record: writes its record; of a dry run, removes its folder.
    """

    run: str
    is_dry: bool
    close: Callable[[], None]
    stop_flow: Callable[[], None]
    record: Callable[[], None]


def _end_in_peace(_interrupt: KeyboardInterrupt, ending: Ending) -> None:
    ending.close()
    ending.stop_flow()
    ending.record()


def _warn(words: str) -> None:
    warnings.warn(words, UserWarning, stacklevel=5)  # the call of `run_flow`


class _Unseen:
    def start(self) -> None: ...
    def tick(self) -> None: ...
    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHooks:
    """What the process around a run does with it.

    interrupted: answers an interrupt, which is raised again when it returns.
    goes_on: whether the process has more to do than this run, so that logs are as before after it.
    """

    display: Callable[[RunView], Display] = lambda _view: _Unseen()
    warn: Callable[[str], None] = _warn
    interrupted: Callable[[KeyboardInterrupt, Ending], None] = _end_in_peace
    goes_on: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    request: RunRequest
    id: str
    site: Site
    target: FlowTarget
    folder: RunFolder
    agent: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    flow: Flow[..., Any]
    parameters: dict[str, Any]
    server: TemporaryServer | None


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
    request = RunRequest(
        flow=flow,
        parameters=dict(parameters or {}),
        qpu=qpu or variable("HPCQC_QPU"),
        site_file=None if site is None else Path(site).expanduser(),
        settings=settings,
        out=None if out is None else Path(out).expanduser(),
        run_id=run_id,
        budgets=dict(budgets or {}),
        use_agent=agent,
        verbose=verbose,
    )
    with undisturbed():
        result = execute(request, RunHooks())
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


def execute(request: RunRequest, hooks: RunHooks) -> RunResult:
    """Run a flow from its check to its report.

    Raises ``ValueError`` subclasses while nothing has started yet; later failures are told in
    `RunResult`.
    """
    with one_run():
        return _execute(request, hooks)


def _execute(request: RunRequest, hooks: RunHooks) -> RunResult:
    plan = _joined_to_agent(_checked(request))
    close_to_others(plan.site.state_dir)
    server = launch_server()
    if plan.site.broker.url is None:
        check_ledger(plan.site.state_dir)  # loads SQLAlchemy; meanwhile the server starts
    flow = load_flow(plan.target)
    bound = bound_parameters if request.as_text else checked_parameters
    parameters = bound(flow.fn, request.parameters)
    check_inputs(flow.fn, parameters)
    _check_pins(plan.site, flow)
    _try_backend(plan)
    agree_with_service(plan.site, plan.id, request.budgets)
    for words in idle_budgets(
        plan.site, qpus_of(flow, plan.site.qpu(request.qpu)), request.budgets
    ):
        hooks.warn(words)
    earlier = plan.folder.open(plan.id, plan.target.text)
    try:
        _check_broker(plan, earlier)
        ready = _Ready(flow=flow, parameters=parameters, server=server or server_if_needed())
        if request.verbose:
            return _Execution(plan, ready, earlier, hooks).run()
        with logs_to_file(plan.folder.path / "run.log", for_good=not hooks.goes_on):
            return _Execution(plan, ready, earlier, hooks).run()
    finally:
        plan.folder.close()


def _checked(request: RunRequest) -> _Plan:
    """Check what can be checked without importing the flow. Raises ``ValueError`` subclasses."""
    target = target_of(request.flow)
    run_id = request.run_id or variable("HPCQC_RUN_ID") or _new_id()
    checked_run_id(run_id)
    budget_texts(request.budgets)
    site = load_site(request.site_file, request.settings)
    check_schedules(site.qpus.values(), datetime.now(UTC))
    if request.scratch is not None:
        site = dry_site(site, request.scratch)
    qpu = site.qpu(request.qpu)
    from backends import registry

    known = registry.available()
    if qpu.backend not in known:
        raise registry.UnknownBackend(
            f"QPU {qpu.name!r} needs backend {qpu.backend!r}; "
            f"installed are: {', '.join(known) or 'none'}"
        )
    shared_cluster()
    folder = RunFolder(request.out or Path("hpcqc-runs") / run_id)
    folder.check()
    check_units(site, request.budgets)
    return _Plan(request=request, id=run_id, site=site, target=target, folder=folder)


def _joined_to_agent(plan: _Plan) -> _Plan:
    """Point this process at a running agent's Prefect server, broker and Dask, if there is one.

    What the user has chosen stays, and so does the broker of an earlier attempt: its ledger knows
    the run's jobs.
    """
    if plan.request.scratch is not None or not plan.request.use_agent or services_are_chosen():
        return plan
    if not os.access(plan.site.state_dir / "agent", os.F_OK):  # False for a name too long
        return plan
    from orchestrator.agent.control import agent_environment

    offered = agent_environment(plan.site)
    if offered is None:
        return plan
    before = plan.folder.broker_of(plan.id)
    own_ledger = plan.site.state_dir / "runs" / lock_file_name(plan.id)
    if own_ledger.exists() or before not in (None, offered["HPCQC_BROKER_URL"]):
        return plan
    prepare_prefect(offered)
    # The user named no server, so a password in the environment is another one's.
    hand_down({"PREFECT_API_AUTH_STRING": offered.get("PREFECT_API_AUTH_STRING", "")})
    return replace(_checked(replace(plan.request, run_id=plan.id)), agent=offered)


def _check_broker(plan: _Plan, earlier: RunRecord | None) -> None:
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


class _Execution:
    """One process's work on a run."""

    def __init__(
        self, plan: _Plan, ready: _Ready, earlier: RunRecord | None, hooks: RunHooks
    ) -> None:
        self._plan, self._ready, self._hooks = plan, ready, hooks
        self._seen: list[JobView] = []
        self._thread: FlowThread | None = None
        self._ledger_jobs = JobsOfRun(plan.site, plan.id)
        self._earlier_stages = plan.folder.earlier_stages()
        self._finished_before = earlier is not None and earlier.status == "completed"
        self._run = runs.Run(
            id=plan.id, site=plan.site, qpu=plan.request.qpu, budgets=plan.request.budgets
        )
        self._run.observers.append(plan.folder.note_stage)
        now = datetime.now(UTC)
        self._earlier_attempts = earlier.attempts if earlier else ()
        self._attempt = RecordedAttempt(started_at=now, status="running")
        self._head = RunRecord(
            id=plan.id,
            target=plan.target.text,
            flow=ready.flow.name,
            parameters=json_value(ready.parameters),
            qpu=self._run.default_qpu,
            site=RecordedSite.model_validate(site_document(plan.site)),
            status="running",
            started_at=earlier.started_at if earlier else now,
            usage=RunUsage(total=RecordedUsage(), per_qpu={}),
            stages=(),
            jobs=(),
            attempts=(),
            versions=versions(),
            machine=json_value(machine()),
        )

    def run(self) -> RunResult:
        """Run the flow and write its folder."""
        held = hold_run(self._plan.site.state_dir, self._plan.id)
        runs.activate(self._run)
        self._write("running")
        view = RunView(
            spans=self._run.spans, jobs=self._jobs, standstills=self._ledger_jobs.standstills
        )
        display = self._hooks.display(view)
        try:
            try:
                value, error = self._work(display)
            except Exception as fault:  # noqa: BLE001 - whatever it is, the run's record tells
                value, error = None, fault
            return self._conclude(value, error)
        except KeyboardInterrupt as interrupt:
            display.stop()
            self._run.closing = True  # or a stage's next call would open a broker again
            self._hooks.interrupted(interrupt, self._ending())
            raise
        finally:
            display.stop()
            runs.activate(None)
            self._ledger_jobs.close()
            held.close()

    def _work(self, display: Display) -> tuple[Any, BaseException | None]:
        """Run the flow to its end; return its value or its error."""
        if "orchestrator.stages" in sys.modules:  # without stages there is nothing to draw
            threading.Thread(target=_load_drawing, daemon=True).start()
        if not self._finished_before:
            _prewarm(self._ready.flow.fn.__globals__)
        if self._ready.server is not None:
            self._ready.server.wait()
        request = self._plan.request
        results = (request.scratch or self._plan.site.state_dir) / "results"
        with on_server(
            self._ready.server,
            agent=self._plan.agent,
            results=results,
            keep_chosen=request.scratch is None,
        ):
            thread = FlowThread(self._ready.flow, self._ready.parameters, self._run)
        self._thread = thread
        display.start()
        thread.start()
        thread.wait(display.tick)
        display.stop()
        _shut_down()
        return thread.value, thread.error

    def _conclude(self, value: Any, error: BaseException | None) -> RunResult:
        folder = self._plan.folder
        if error is None:
            result = json_value(value)
            folder.write_result(result)
            record = self._write("completed", outcome=outcome_of(result))
            outcome = folder.write_report(record, result)
            return RunResult(
                id=self._plan.id,
                status="completed",
                value=value,
                record=record,
                folder=folder.path,
                outcome=outcome,
            )
        path = self._plan.target.path
        beside = path.parent if path else None
        record = self._write("failed", self._reason(error))
        self._log(error)
        return RunResult(
            id=self._plan.id,
            status="failed",
            value=None,
            record=record,
            folder=folder.path,
            error=error,
            place=place_of(error, beside),
            is_mistake=is_mistake(error, beside),
            outcome=folder.write_report(record, None),
        )

    def _ending(self) -> Ending:
        scratch = self._plan.request.scratch
        record = self._record_interrupt
        if scratch is not None:
            record = partial(shutil.rmtree, scratch, ignore_errors=True)
        return Ending(
            run=self._plan.id,
            is_dry=scratch is not None,
            close=_shut_down,
            stop_flow=self._stop_flow,
            record=record,
        )

    def _stop_flow(self) -> None:
        if self._thread is not None:
            self._thread.stop()

    def _record_interrupt(self) -> None:
        record = self._write("interrupted", "interrupted by the user")
        self._plan.folder.write_report(record, None)

    def _write(
        self, status: RunStatus, error: str | None = None, outcome: Outcome | None = None
    ) -> RunRecord:
        ended = None if status == "running" else datetime.now(UTC)
        attempt = self._attempt.model_copy(update={"ended_at": ended, "status": status})
        head = self._head.model_copy(
            update={
                "status": status,
                "error": error,
                "outcome": outcome,
                "ended_at": ended,
                "attempts": (*self._earlier_attempts, attempt),
            }
        )
        stages = merged_stages(self._earlier_stages, self._run.spans())
        record = run_record(head, stages, self._jobs())
        self._plan.folder.write_record(record)
        return record

    def _reason(self, error: BaseException) -> str:
        """Name the stage where Prefect only says that something before has failed."""
        failed = [span for span in self._run.spans() if span.state == "failed" and span.error]
        if type(error).__module__.startswith("prefect.") and failed:
            return f"stage {failed[0].name}: {failed[0].error} ({reason(error)})"
        return reason(error)

    def _jobs(self) -> list[JobView]:
        """Return the run's jobs; where they cannot be read now, those last seen."""
        try:
            self._seen = self._ledger_jobs.read()
        except (ValueError, RuntimeError) as error:  # the ledger, or a service that is away
            logging.getLogger(__name__).info("%s", error)
        return self._seen

    def _log(self, error: BaseException) -> None:
        with (self._plan.folder.path / "run.log").open("a", encoding="utf-8") as log:
            log.writelines(traceback.format_exception(error))


def _check_pins(site: Site, flow: Flow[..., Any]) -> None:
    """Check that the site has what the stages beside the flow are pinned to, and can give it.

    Raises ``ConfigError``, ``DemandNotMet``, and what kinds of compute raise for their options.
    """
    for name, needs in stages_beside(flow).items():
        try:
            _ = site.qpu(needs.where) if needs.kind == "quantum" else site.compute(needs.where)
        except ConfigError as error:
            raise ConfigError(f"stage {name!r} is pinned: {error}") from None
        if needs.kind == "classical":
            from orchestrator.compute.kinds import check_demand, open_compute, settings_in_force

            settings = settings_in_force(site, needs.where)
            open_compute(settings).close()
            check_demand(name, needs.demand, settings)


def _try_backend(plan: _Plan) -> None:
    """Check the QPU's backend and options, if the flow looks quantum.

    It does if Qiskit is loaded or a QPU is named; another is spared Qiskit's import.
    """
    if plan.request.qpu is None and "qiskit" not in sys.modules:
        return
    from backends import registry
    from orchestrator.config.secrets import resolve_secrets

    settings = plan.site.qpu(plan.request.qpu)
    registry.describe(settings.backend, resolve_secrets(settings.options))


def _shut_down() -> None:
    if "orchestrator.resources" in sys.modules:
        from orchestrator.resources import shutdown

        shutdown()


def _prewarm(namespace: dict[str, Any]) -> None:
    """Start workers and simulators while Prefect's server comes up; a plain flow needs none."""
    stages = sys.modules.get("orchestrator.stages")
    if stages is not None:
        from orchestrator.prewarm import prewarm

        prewarm(namespace)


def _load_drawing() -> None:
    """Import what the report draws with while there is time."""
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg
    import matplotlib.figure  # noqa: F401


def _new_id() -> str:
    return dated_run_id(datetime.now(UTC), uuid.uuid4().hex[:6])
