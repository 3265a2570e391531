"""``hpcqc run``: everything is checked, then the flow runs, then its folder is written."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import threading
import traceback
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from orchestrator import runs
from orchestrator.application.budget_check import (
    agree_with_service,
    check_units,
    idle_budgets,
    qpus_of,
)
from orchestrator.application.dry_site import dry_site
from orchestrator.application.errors import is_mistake, place_of, reason
from orchestrator.application.flow_thread import FlowThread
from orchestrator.application.jobs import JobsOfRun, check_ledger
from orchestrator.application.parameters import assignments, bound_parameters
from orchestrator.application.prefect_setup import (
    launch_server,
    logs_to_file,
    on_server,
    server_if_needed,
)
from orchestrator.application.target import (
    LoadedFlow,
    Target,
    find_target,
    load_flow,
    stages_beside,
)
from orchestrator.broker.runtime.site_rules import check_schedules
from orchestrator.cli.errors import FAILED, MISTAKE
from orchestrator.cli.interrupts import end_after
from orchestrator.cli.output import print_warning
from orchestrator.cli.run.progress import Progress
from orchestrator.cli.streams import LastingStream
from orchestrator.config import (
    ConfigError,
    Site,
    load_site,
    run_id_from_environment,
    shared_cluster,
)
from orchestrator.config.budgets import budgets_of
from orchestrator.config.environment import hand_down, prepare_prefect, services_are_chosen
from orchestrator.config.private import close_to_others
from orchestrator.doctor import machine, versions
from orchestrator.identity import checked_run_id, dated_run_id, lock_file_name
from orchestrator.inputs import check_inputs
from orchestrator.provenance.folder import RunFolder
from orchestrator.provenance.outcome import Outcome
from orchestrator.provenance.record import RunFacts, merged_stages, run_record
from orchestrator.provenance.schema import RecordedAttempt, RunRecord, RunStatus
from orchestrator.retention import hold_run

if TYPE_CHECKING:
    from orchestrator.application.prefect_server import TemporaryServer

__all__ = ["Finished", "RunRequest", "checked", "run_flow"]

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What the user asked for, as it was typed.

    use_agent: use the services of an agent that is running for the same site.
    scratch: set for a dry run, which stays inside this folder: simulators stand in for the QPUs,
    and an interrupt removes the folder.
    """

    target: str
    parameters: Sequence[str] = ()
    qpu: str | None = None
    site_file: Path | None = None
    out: Path | None = None
    overrides: Sequence[str] = ()
    run_id: str | None = None
    budgets: Sequence[str] = ()
    verbose: bool = False
    as_json: bool = False
    use_agent: bool = True
    scratch: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a run ended. value: the flow's, None unless it completed.

    place: file and line of the user's code in which it failed, if that is known.
    """

    code: int
    record: RunRecord
    folder: Path
    outcome: Outcome
    value: Any = None
    place: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    request: RunRequest
    id: str
    site: Site
    target: Target
    folder: RunFolder
    budgets: dict[str, float | None]
    of_agent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    loaded: LoadedFlow
    parameters: dict[str, Any]
    server: TemporaryServer | None


def checked(request: RunRequest) -> _Plan:
    """Check what can be checked without importing the flow. Raises ``ValueError`` subclasses."""
    target = find_target(request.target)
    run_id = request.run_id or run_id_from_environment() or _new_id()
    if not _RUN_ID.fullmatch(run_id):
        raise ConfigError(
            f"run id {run_id!r}; use up to 64 letters, digits, dots, dashes and underscores"
        )
    checked_run_id(run_id)
    assignments(request.parameters)
    budgets = budgets_of(request.budgets)
    site = load_site(request.site_file, request.overrides)
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
    check_units(site, budgets)
    return _Plan(
        request=request, id=run_id, site=site, target=target, folder=folder, budgets=budgets
    )


def run_flow(request: RunRequest) -> Finished:
    """Run a flow from its check to its report.

    Raises ``ValueError`` subclasses while nothing has started yet; later failures are told in
    `Finished`. Ends the process itself when it was interrupted.
    """
    plan = _joined_to_agent(checked(request))
    close_to_others(plan.site.state_dir)
    server = launch_server(plan.site.state_dir / "results")
    try:
        if plan.site.broker.url is None:
            check_ledger(plan.site.state_dir)  # loads SQLAlchemy; meanwhile the server starts
        loaded = load_flow(plan.target)
        parameters = bound_parameters(loaded.flow.fn, assignments(request.parameters))
        check_inputs(loaded.flow.fn, parameters)
        _check_pins(plan.site, loaded)
        _try_backend(plan)
        agree_with_service(plan.site, plan.id, plan.budgets)
        used = qpus_of(loaded.flow, plan.site.qpu(request.qpu))
        for words in idle_budgets(plan.site, used, plan.budgets):
            print_warning(words)
        earlier = plan.folder.open(plan.id, plan.target.text)
        _check_broker(plan, earlier)
    except BaseException:
        if server is not None:
            server.stop()
        raise
    ready = _Ready(loaded=loaded, parameters=parameters, server=server or server_if_needed())
    if not request.verbose:
        logs_to_file(plan.folder.path / "run.log")
    return _Execution(plan, ready, earlier).run()


def _joined_to_agent(plan: _Plan) -> _Plan:
    """Point this process at a running agent's Prefect server, broker and Dask, if there is one.

    What the user has chosen stays, and so does the broker of an earlier attempt: its ledger knows
    the run's jobs.
    """
    if plan.request.scratch is not None or not plan.request.use_agent or services_are_chosen():
        return plan
    if not os.access(plan.site.state_dir / "agent", os.F_OK):  # False for a name too long
        return plan
    from orchestrator.agent.joining import agent_environment

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
    return replace(checked(replace(plan.request, run_id=plan.id)), of_agent=True)


def _check_broker(plan: _Plan, earlier: RunRecord | None) -> None:
    """Refuse to continue a run at a broker that does not know its jobs: they would run again."""
    if earlier is None or not earlier.jobs:
        return
    before, now = plan.folder.broker_of(plan.id), plan.site.broker.url
    if before != now:
        raise ConfigError(
            f"run {plan.id!r} has its quantum jobs at {_broker_name(before)}, and would now use "
            f"{_broker_name(now)}, where they would run again; use the broker of before, or "
            "another --run-id"
        )


def _broker_name(url: str | None) -> str:
    return "the broker of its own process" if url is None else f"the broker {url}"


class _Execution:
    """One process's work on a run."""

    def __init__(self, plan: _Plan, ready: _Ready, earlier: RunRecord | None) -> None:
        self._plan, self._ready = plan, ready
        self._seen: list[Any] = []
        self._ledger_jobs = JobsOfRun(plan.site, plan.id)
        self._earlier_stages = plan.folder.earlier_stages()
        self._finished_before = earlier is not None and earlier.status == "completed"
        self._run = runs.Run(id=plan.id, site=plan.site, qpu=plan.request.qpu, budgets=plan.budgets)
        self._run.observers.append(plan.folder.note_stage)
        now = datetime.now(UTC)
        self._earlier_attempts = earlier.attempts if earlier else ()
        self._attempt = RecordedAttempt(started_at=now, status="running")
        self._facts = RunFacts(
            id=plan.id,
            target=plan.target.text,
            flow=ready.loaded.flow.name,
            parameters=ready.parameters,
            qpu=self._run.default_qpu,
            site=plan.site,
            status="running",
            started_at=earlier.started_at if earlier else now,
            versions=versions(),
            machine=machine(),
        )

    def run(self) -> Finished:
        """Run the flow and write its folder."""
        held = hold_run(self._plan.site.state_dir, self._plan.id)
        runs.activate(self._run)
        self._write("running")
        shown = cast("IO[str]", LastingStream(sys.stderr))
        progress = Progress(self._run.spans, self._jobs, self._ledger_jobs.standstills, shown)
        try:
            with _output_aside(wanted=self._plan.request.as_json):
                try:
                    value, error = self._work(progress)
                except Exception as fault:  # noqa: BLE001 - whatever it is, the run's record tells
                    value, error = None, fault
                return self._conclude(value, error)
        except KeyboardInterrupt as interrupt:
            progress.stop()
            self._interrupted(interrupt)
            raise  # not reached: the process has ended
        finally:
            progress.stop()
            runs.activate(None)
            self._ledger_jobs.close()
            self._plan.folder.close()
            held.close()

    def _work(self, progress: Progress) -> tuple[Any, BaseException | None]:
        """Run the flow to its end; return its value or its error."""
        if "orchestrator.stages" in sys.modules:  # without stages there is nothing to draw
            threading.Thread(target=_load_drawing, daemon=True).start()
        if not self._finished_before:
            _prewarm(self._ready.loaded.flow.fn.__globals__)
        if self._ready.server is not None:
            self._ready.server.wait()
        with on_server(self._ready.server, of_agent=self._plan.of_agent):
            thread = FlowThread(self._ready.loaded.flow, self._ready.parameters)
        progress.start()
        thread.start()
        thread.wait(progress.tick)
        progress.stop()
        _shut_down()
        return thread.value, thread.error

    def _conclude(self, value: Any, error: BaseException | None) -> Finished:
        folder = self._plan.folder
        if error is None:
            folder.write_result(value)
            record = self._write("completed")
            outcome = folder.write_report(record, value)
            return Finished(code=0, record=record, folder=folder.path, outcome=outcome, value=value)
        path = self._plan.target.path
        beside = path.parent if path else None
        mistake = is_mistake(error, beside)
        record = self._write("failed", self._reason(error))
        self._log(error)
        outcome = folder.write_report(record, None)
        code = MISTAKE if mistake else FAILED
        return Finished(
            code=code,
            record=record,
            folder=folder.path,
            outcome=outcome,
            place=place_of(error, beside),
        )

    def _interrupted(self, interrupt: KeyboardInterrupt) -> None:
        """Cancel quantum jobs, end workers, write what is known, and end the process."""
        self._run.closing = True  # or a stage's next call would open a broker again
        scratch = self._plan.request.scratch
        if scratch is None:
            words = (
                "cancelling quantum jobs and ending workers. Continue with the same command "
                f"and --run-id {self._plan.id}"
            )
            end_after(interrupt, words, _shut_down, self._record_interrupt)
        else:
            words = "nothing was spent, and nothing is kept"
            end_after(
                interrupt, words, _shut_down, partial(shutil.rmtree, scratch, ignore_errors=True)
            )

    def _record_interrupt(self) -> None:
        record = self._write("interrupted", "interrupted by the user")
        self._plan.folder.write_report(record, None)

    def _write(self, status: RunStatus, error: str | None = None) -> RunRecord:
        ended = None if status == "running" else datetime.now(UTC)
        attempt = self._attempt.model_copy(update={"ended_at": ended, "status": status})
        facts = replace(
            self._facts,
            status=status,
            error=error,
            ended_at=ended,
            attempts=(*self._earlier_attempts, attempt),
        )
        stages = merged_stages(self._earlier_stages, self._run.spans())
        record = run_record(facts, stages, self._jobs())
        self._plan.folder.write_record(record)
        return record

    def _reason(self, error: BaseException) -> str:
        """Name the stage where Prefect only says that something before has failed."""
        failed = [span for span in self._run.spans() if span.state == "failed" and span.error]
        if type(error).__module__.startswith("prefect.") and failed:
            return f"stage {failed[0].name}: {failed[0].error} ({reason(error)})"
        return reason(error)

    def _jobs(self) -> list[Any]:
        """Return the run's jobs; where they cannot be read now, those last seen."""
        try:
            self._seen = self._ledger_jobs.read()
        except (ValueError, RuntimeError) as error:  # the ledger, or a service that is away
            logging.getLogger(__name__).info("%s", error)
        return self._seen

    def _log(self, error: BaseException) -> None:
        with (self._plan.folder.path / "run.log").open("a", encoding="utf-8") as log:
            log.writelines(traceback.format_exception(error))


def _check_pins(site: Site, loaded: LoadedFlow) -> None:
    """See that the site has what the stages beside the flow are pinned to. Raises `ConfigError`."""
    for name, needs in stages_beside(loaded.flow).items():
        if needs.where is None:
            continue
        try:
            _ = site.qpu(needs.where) if needs.kind == "quantum" else site.compute(needs.where)
        except ConfigError as error:
            raise ConfigError(f"stage {name!r} is pinned: {error}") from None


def _try_backend(plan: _Plan) -> None:
    """Check the QPU's backend and options, if the flow looks quantum: Qiskit is loaded, or a QPU named.

    A flow that needs none is spared Qiskit's import.
    """
    if plan.request.qpu is None and "qiskit" not in sys.modules:
        return
    from backends import registry
    from orchestrator.config import resolve_secrets

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


@contextmanager
def _output_aside(*, wanted: bool) -> Iterator[None]:
    """Send what the flow prints to stderr, so that stdout holds the JSON document alone.

    Either way the flow goes on if nobody reads it: `hpcqc run … | head`.
    """
    with redirect_stdout(LastingStream(sys.stderr if wanted else sys.stdout)):
        yield


def _new_id() -> str:
    return dated_run_id(datetime.now(UTC), uuid.uuid4().hex[:6])
