"""One process's execution of a run: the flow in a thread of its own, and the run's folder."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import inspect
import logging
import os
import shutil
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from orchestrator import runs
from orchestrator.agent.processes import ProcessIdentity
from orchestrator.application.couplings import gate_of
from orchestrator.application.errors import is_mistake, place_of, reason
from orchestrator.application.jobs import JobsOfRun
from orchestrator.application.prefect_setup import on_server
from orchestrator.application.register import (
    RegisteredRun,
    advice_after_haste,
    cancel_requested,
    register,
    withdraw_cancel,
)
from orchestrator.doctor import machine, versions
from orchestrator.provenance.outcome import Outcome, outcome_of
from orchestrator.provenance.record import merged_stages, run_record, site_document
from orchestrator.provenance.schema import (
    RecordedAttempt,
    RecordedCoupling,
    RecordedSite,
    RecordedSlurm,
    RecordedUsage,
    RunRecord,
    RunStatus,
    RunUsage,
)
from orchestrator.provenance.values import json_value
from orchestrator.retention import hold_run
from orchestrator.slurm import this_job
from orchestrator.slurm.errors import left_behind
from orchestrator.wording import visible

if TYPE_CHECKING:
    from prefect import Flow

    from orchestrator.application.prefect_setup import TemporaryServer
    from orchestrator.application.target import FlowTarget
    from orchestrator.broker.core.views import JobView
    from orchestrator.config.site import Site
    from orchestrator.provenance.folder import RunFolder
    from orchestrator.runs import StageSpan

__all__ = ["FlowThread", "RunExecution", "RunPlan", "RunResult", "Watcher"]

_log = logging.getLogger(__name__)
_LOOK_EVERY_S = 0.1
_STOP_S = 10.0
_HASTE_S = 1.0
# How long the end of a run waits for Slurm's accounting of its jobs, which may be late by seconds.
_SETTLE_S = 8.0
_SHORT_SETTLE_S = 2.0
# Why a run was interrupted, as attempts have it, and as its record says it.
_REASONS = {
    "user": "interrupted by the user",
    "cancelled": "interrupted: cancelled",
    "walltime": "interrupted: walltime",
    "preempted": "interrupted: preempted",
    "requeued": "interrupted: requeued",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a run ended.

    value: what the flow returned, None unless it completed. record: the content of ``run.json``.
    folder: where the record, the result and the report are. error: why the flow failed, None if
    it completed. place: file and line of the user's code in which it failed, if that is known.
    is_mistake: whether the user must change something before the flow can work. outcome: what of
    the value the report shows. left: which Slurm jobs could not be ended, and how to end them.
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
    left: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """A run that was checked."""

    id: str
    site: Site
    target: FlowTarget
    folder: RunFolder
    qpu: str | None  # of stages that pin none; None for the site's default
    budgets: Mapping[str, float | None]
    agent: Mapping[str, str] | None  # variables of a running agent's services
    scratch: Path | None  # the folder of a dry run
    site_file: Path | None = None  # None for the built-in laptop
    settings: Sequence[str] = ()  # changes to the site
    coupling: str = ""  # empty where no compute can change its workers
    quantum_after_s: float | None = None  # of `Gate`
    choice: RecordedCoupling | None = None  # why it is this one, and what it should lead to
    is_driver_job: bool = False  # a Slurm job was submitted for the run, and this process is in it

    @property
    def recorded_coupling(self) -> RecordedCoupling | None:
        """The coupling as the run's record has it; None where there is none."""
        if self.choice is not None or not self.coupling:
            return self.choice
        return RecordedCoupling(chosen=self.coupling)


def _level_of_caller() -> int:
    """Return the stack level, as warnings count it, of the code that called this package."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - there is no other way in 3.11
    level, found = 0, 1
    while frame is not None:
        level += 1
        if str(frame.f_globals.get("__name__")).startswith("orchestrator."):
            found = level + 1
        frame = frame.f_back
    return found


class Watcher:
    """What the process around a run does meanwhile; this one shows nothing."""

    goes_on = True  # the process continues after the run and needs its logging back

    def warn(self, words: str) -> None:
        """Take a sentence about something that is probably not what the user meant."""
        warnings.warn(words, UserWarning, stacklevel=_level_of_caller())

    def start(self, run: RunExecution) -> None:
        """Begin to show a run."""

    def tick(self) -> None:
        """Refresh; called about ten times a second, from one thread."""

    def stop(self) -> None:
        """Stop showing; stopping twice, or before `start`, does nothing."""

    def interrupted(self, interrupt: KeyboardInterrupt, run: RunExecution) -> None:
        """Bring an interrupted run to its end; the interrupt is raised again afterwards."""
        del interrupt
        run.close()
        run.stop_flow()
        run.record_interrupt()


class RunExecution:
    """One process's work on a run. Any thread may ask for its stages and jobs meanwhile."""

    def __init__(
        self,
        plan: RunPlan,
        flow: Flow[..., Any],
        parameters: dict[str, Any],
        *,
        server: TemporaryServer | None,
        earlier: RunRecord | None,
        watcher: Watcher,
    ) -> None:
        """Prepare. earlier: the record of this run's last attempt."""
        self._plan, self._flow, self._parameters = plan, flow, parameters
        self._server, self._earlier, self._watcher = server, earlier, watcher
        self._last_jobs: list[JobView] = []
        self._ledger_jobs = JobsOfRun(plan.site, plan.id)
        self._earlier_stages = plan.folder.noted_stages()
        self._run = runs.Run(
            id=plan.id,
            site=plan.site,
            flow=flow.name,
            qpu=plan.qpu,
            budgets=plan.budgets,
            coupling=plan.coupling,
            gate=gate_of(plan.site, plan.coupling, plan.quantum_after_s),
            dry=plan.scratch is not None,
        )
        self._run.observers.append(plan.folder.note_stage)
        self._thread = FlowThread(flow, parameters, self._run)
        now = datetime.now(UTC)
        job = this_job()
        self._attempt = RecordedAttempt(
            started_at=now,
            status="running",
            host=os.uname().nodename,
            slurm_job=None if job is None else job.id,
        )
        self._head = RunRecord(
            id=plan.id,
            target=plan.target.text,
            flow=flow.name,
            parameters=json_value(parameters),
            qpu=self._run.default_qpu,
            coupling=plan.recorded_coupling,
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

    @property
    def id(self) -> str:
        """The run's id."""
        return self._plan.id

    @property
    def is_dry(self) -> bool:
        """Whether the run is a dry one, on simulators, of which nothing stays."""
        return self._plan.scratch is not None

    def is_closing(self) -> bool:
        """Whether stages and workers are being ended, or have been."""
        return self._run.closing

    def spans(self) -> list[StageSpan]:
        """Return the stages so far."""
        return self._run.spans()

    def jobs(self) -> list[JobView]:
        """Return the run's jobs; if they cannot be read now, those of the last call."""
        try:
            self._last_jobs = self._ledger_jobs.read()
        except (ValueError, RuntimeError) as error:  # the ledger, or a service that is away
            _log.info("%s", error)
        return self._last_jobs

    def standstills(self, qpus: Collection[str]) -> list[str]:
        """Return a sentence for each of these QPUs that starts no task now."""
        return self._ledger_jobs.standstills(qpus)

    def run(self) -> RunResult:
        """Run the flow and write its folder."""
        in_use = hold_run(self._plan.site.state_dir, self.id)
        self._register()
        runs.activate(self._run)
        self._write("running")
        try:
            try:
                value, error = self._work()
            except Exception as fault:  # noqa: BLE001 - whatever it is, it is in the run's record
                value, error = None, fault
            return self._conclude(value, error)
        except KeyboardInterrupt as interrupt:
            self._watcher.stop()
            self._run.closing = True  # or a stage's next call would open a broker again
            number = getattr(interrupt, "number", signal.SIGINT)
            _log.warning("the process got %s: the run is being ended", number.name)
            self._watcher.interrupted(interrupt, self)
            raise
        finally:
            self._watcher.stop()
            runs.activate(None)
            self._ledger_jobs.close()
            in_use.close()

    def close(self, resuming_s: float | None = None) -> None:
        """Cancel the run's quantum jobs and end its workers. resuming_s: as `shutdown` has it."""
        if "orchestrator.resources" in sys.modules:
            from orchestrator.resources import shutdown

            shutdown(resuming_s=resuming_s)

    def left_behind(self) -> str:
        """Say which Slurm jobs `close` has left, and how to end them; empty for none."""
        if "orchestrator.resources" not in sys.modules:
            return ""
        from orchestrator.resources import left_slurm_jobs

        jobs = left_slurm_jobs()
        return left_behind(self.id, jobs, "it did not answer in time") if jobs else ""

    def stop_flow(self) -> None:
        """Return when the flow's thread has ended, or will not."""
        self._thread.stop()

    def record_interrupt(self, reason: str = "user", *, in_haste: bool = False) -> None:
        """Write the record of an interrupted run; of a dry run, remove its folder.

        reason: why, as `RecordedAttempt` has it. in_haste: wait for no broker and no Slurm, and draw
        no report, because the process ends before its quantum jobs and workers.
        """
        if self._plan.scratch is not None:
            shutil.rmtree(self._plan.scratch, ignore_errors=True)
            return
        if reason == "user" and cancel_requested(self._plan.site.state_dir, self.id):
            reason = "cancelled"
        self._attempt = self._attempt.model_copy(update={"reason": reason})
        _log.warning("the run is %s", _REASONS[reason])
        if in_haste:
            reading = threading.Thread(target=self.jobs, daemon=True)
            reading.start()
            reading.join(_HASTE_S)
            left = _REASONS[reason] + advice_after_haste(self.id)
            self._write("interrupted", left, in_haste=True)
            return
        record = self._write("interrupted", _REASONS[reason])
        self._plan.folder.write_report(record, None)

    def _register(self) -> None:
        plan = self._plan
        if self.is_dry:
            return
        if not plan.is_driver_job:  # its submission did so
            withdraw_cancel(plan.site.state_dir, self.id)
        register(plan.site.state_dir, self._registered())

    def _registered(self) -> RegisteredRun:
        plan = self._plan
        return RegisteredRun(
            id=self.id,
            target=plan.target.text,
            flow=self._flow.name,
            folder=plan.folder.path,
            site=plan.site_file,
            settings=tuple(plan.settings),
            registered_at=self._attempt.started_at,
            process=ProcessIdentity.own(),
            coupling=self._run.coupling,
            project=plan.site.broker.project or "",
            slurm_job=self._attempt.slurm_job,
            is_driver_job=plan.is_driver_job,
        )

    def _work(self) -> tuple[Any, BaseException | None]:
        """Run the flow to its end; return its value or its error."""
        plan = self._plan
        if "orchestrator.stages" in sys.modules:  # a plain flow has nothing to draw or to prewarm
            threading.Thread(target=_load_drawing, daemon=True).start()
            if self._earlier is None or self._earlier.status != "completed":
                from orchestrator.prewarm import prewarm

                prewarm(self._flow.fn.__globals__)  # while Prefect's server comes up
        if self._server is not None:
            self._server.wait()
        results = (plan.scratch or plan.site.state_dir) / "results"
        with on_server(
            self._server, agent=plan.agent, results=results, keep_chosen=not self.is_dry
        ):
            self._watcher.start(self)
            self._thread.start()
        self._thread.wait(self._watcher.tick)
        self._watcher.stop()
        self.close()
        return self._thread.value, self._thread.error

    def _conclude(self, value: Any, error: BaseException | None) -> RunResult:
        folder = self._plan.folder
        if error is None:
            result = json_value(value)
            folder.write_result(result)
            record = self._write("completed", outcome=outcome_of(result))
            return RunResult(
                id=self.id,
                status="completed",
                value=value,
                record=record,
                folder=folder.path,
                outcome=folder.write_report(record, result),
                left=self.left_behind(),
            )
        file = self._plan.target.path
        beside = file.parent if file else None
        record = self._write("failed", self._reason(error))
        with (folder.path / "run.log").open("a", encoding="utf-8") as log:
            log.writelines(map(visible, traceback.format_exception(error)))
        return RunResult(
            id=self.id,
            status="failed",
            value=None,
            record=record,
            folder=folder.path,
            error=error,
            place=place_of(error, beside),
            is_mistake=is_mistake(error, beside),
            outcome=folder.write_report(record, None),
            left=self.left_behind(),
        )

    def _write(
        self,
        status: RunStatus,
        error: str | None = None,
        outcome: Outcome | None = None,
        *,
        in_haste: bool = False,
    ) -> RunRecord:
        ended = None if status == "running" else datetime.now(UTC)
        slurm = None
        if ended is not None and not self.is_dry and not in_haste:
            slurm = self._measured(_SETTLE_S if status != "interrupted" else _SHORT_SETTLE_S)
            if self._run.coupling:  # it may have been chosen in the run
                register(self._plan.site.state_dir, self._registered())
        attempt = self._attempt.model_copy(update={"ended_at": ended, "status": status})
        earlier = self._earlier.attempts if self._earlier else ()
        head = self._head.model_copy(
            update={
                "status": status,
                "error": error,
                "outcome": outcome,
                "ended_at": ended,
                "attempts": (*earlier, attempt),
                "slurm": slurm,
            }
        )
        stages = merged_stages(self._earlier_stages, self.spans())
        record = run_record(head, stages, self._last_jobs if in_haste else self.jobs())
        link = self._ledger_jobs.link_facts or (self._earlier and self._earlier.broker_link)
        if link is not None:
            record = record.model_copy(update={"broker_link": link})
        self._plan.folder.write_record(record)
        return record

    def _measured(self, patience_s: float) -> RecordedSlurm | None:
        """Return what the run's Slurm jobs used, waiting for their accounting."""
        from orchestrator.application.measurement import measured

        since = self._earlier.started_at if self._earlier else self._attempt.started_at
        return measured(self._plan.site, self.id, since, patience_s=patience_s)

    def _reason(self, error: BaseException) -> str:
        """Name the stage where Prefect only says that something before has failed."""
        failed = [span for span in self.spans() if span.state == "failed" and span.error]
        if type(error).__module__.startswith("prefect.") and failed:
            return f"stage {failed[0].name}: {failed[0].error} ({reason(error)})"
        return reason(error)


class FlowThread:
    """Runs a Prefect flow in a thread, so that the main thread can answer Ctrl-C."""

    def __init__(self, flow: Any, parameters: Mapping[str, Any], run: runs.Run) -> None:
        """Bind the stages that the flow calls to the run."""
        self.value: Any = None
        self.error: BaseException | None = None
        self._call = (flow, dict(parameters), run)
        # A thread whose `join` was interrupted counts as dead in Python 3.11, whatever it does.
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the flow, with the settings that Prefect keeps in this thread's context."""
        context = contextvars.copy_context()
        context.run(runs.bind, self._call[2])
        self._thread = threading.Thread(
            target=context.run, args=(self._work,), name="flow", daemon=True
        )
        self._thread.start()

    def wait(self, tick: Callable[[], None]) -> None:
        """Return when the flow is done, calling ``tick`` meanwhile. Ctrl-C gets through."""
        while not self._ended.wait(_LOOK_EVERY_S):
            tick()

    def stop(self, grace_s: float = 1.0, stop_s: float = _STOP_S) -> None:
        """Block until the flow has ended, at most ``stop_s``: C code cannot be interrupted."""
        # Without its jobs and workers it ends by itself, unless it is computing.
        ident = self._thread.ident if self._thread else None
        if ident is None:
            return
        deadline = time.monotonic() + stop_s
        # More than one: code that cleans up may swallow it.
        while not self._ended.wait(grace_s) and time.monotonic() < deadline:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(ident), ctypes.py_object(KeyboardInterrupt)
            )

    def _work(self) -> None:
        flow, parameters, _ = self._call
        try:
            known = inspect.signature(flow.fn).parameters.values()
            unnamed = [p for p in known if p.kind is p.POSITIONAL_ONLY]
            given = [parameters.pop(p.name, p.default) for p in unnamed]
            value = flow(*given, **parameters)
            self.value = asyncio.run(_awaited(value)) if inspect.isawaitable(value) else value
        except BaseException as error:  # noqa: BLE001 - handed over to the waiting thread
            self.error = error
        finally:
            self._ended.set()


async def _awaited(value: Any) -> Any:
    return await value


def _load_drawing() -> None:
    """Import what the report draws with while there is time."""
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg
    import matplotlib.figure  # noqa: F401
