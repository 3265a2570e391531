"""The broker: one ledger scope and its QPUs, for one run in its process or for a site's users."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import ChainMap
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import IO, Any, TypeVar

from backends import registry
from backends.api import Backend, CalibrationChanged, PayloadRejected, QpuUnavailable, Target
from backends.fidelity import device_errors, device_fidelity
from backends.metering import Metering
from backends.payloads.paradigms import paradigms
from orchestrator.broker.client.protocol import DataRefused
from orchestrator.broker.client.status import (
    FactSource,
    JobUnknown,
    NotUncertain,
    ProjectTotals,
    QpuReadiness,
    QpuStatus,
    TaskShare,
)
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.choice import (
    ChoiceRequest,
    QpuChoice,
    QpuFacts,
    choose,
    with_labels,
)
from orchestrator.broker.core.explain import Explanation, explain, no_room, work_left_s
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.metered import NOTHING_METERED, Metered, metered_usages
from orchestrator.broker.core.prediction import Load, predicted_charge, predicted_seconds
from orchestrator.broker.core.records import JobRecord, TaskRecord, job_view
from orchestrator.broker.core.rules import Calendar, in_utc
from orchestrator.broker.core.snapshot import EndedJob, ended_job
from orchestrator.broker.core.state import BrokerState
from orchestrator.broker.core.views import JobState, JobView
from orchestrator.broker.ledger import JobFilter, Ledger, LedgerError
from orchestrator.broker.runtime.blob_store import reuse_key
from orchestrator.broker.runtime.calibration_watch import CalibrationWatch
from orchestrator.broker.runtime.checked_payload import CheckedPayload
from orchestrator.broker.runtime.event_loop import Commit, EventLoop
from orchestrator.broker.runtime.grant_watch import Allocations, GrantWatch, NotGranted
from orchestrator.broker.runtime.intake import Intake
from orchestrator.broker.runtime.pacing import STANDARD_PACING, Pacing
from orchestrator.broker.runtime.quotas import Quotas
from orchestrator.config.broker_tables import BrokerLimits
from orchestrator.config.errors import ConfigError
from orchestrator.config.private import login_name
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.secrets import credentials_used
from orchestrator.data_labels import (
    accepted_labels,
    all_labels,
    labels_of_project,
    refusal,
)
from orchestrator.identity import SERVICE_SCOPE, JobId, OwnedName, results_audience

__all__ = ["Broker"]

_log = logging.getLogger(__name__)
# A ledger without a snapshot is folded whole, once; afterwards all that has ended is apart.
_JOBS_AT_START = 100_000
# Longest that a request for a result waits for the commit of its job's end.
_COMMIT_S = 10.0
# So many jobs are looked at, and so many views made, before others have the event loop again:
# 1 µs and 30 µs each.
_LOOKED_AT, _VIEWED = 10_000, 500
_REQUEST = tuple(one.name for one in fields(JobRequest))
_Item = TypeVar("_Item")


@dataclass(eq=False)
class Broker:
    """Admits jobs to QPUs, shows and ends them. Lives on one event loop; `open` starts it.

    A QPU whose backend cannot be built is shown as unavailable with the reason, and tried again
    when it is next asked for, by a service every ``pacing.watch_s``; its open tasks are found then. A service's jobs go on by
    themselves after a restart, a run's when they are asked for again.
    """

    qpus: Mapping[str, QpuSettings]
    ledger: Ledger
    clock: Callable[[], datetime]
    open_backend: Callable[[str], Backend]  # builds a QPU's backend, on a thread
    scope: str = SERVICE_SCOPE  # the part of the ledger that it owns
    observers: list[Callable[[Commit], None]] = field(default_factory=list)  # on the loop
    limits: BrokerLimits | None = field(default_factory=BrokerLimits)  # None: a run's process
    sharing: frozenset[str] = frozenset()  # projects that reuse each other's results, if asked
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # see `labels_of_project`
    intake: Intake = field(default_factory=Intake)  # reads untrusted payloads
    allocations: Allocations | None = None  # of Slurm, for QPUs that it grants
    pacing: Pacing = STANDARD_PACING
    events: EventLoop = field(init=False)
    watch: CalibrationWatch = field(init=False)
    grants: GrantWatch = field(init=False)
    quotas: Quotas = field(init=False)
    _backends: dict[str, Backend] = field(default_factory=dict)
    _broken: dict[str, str] = field(default_factory=dict)
    _broken_at: dict[str, datetime] = field(default_factory=dict)
    _arrivals: dict[JobId, asyncio.Future[JobState]] = field(default_factory=dict)
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    _serving: asyncio.Task[None] | None = None
    _reopening: asyncio.Task[None] | None = None
    _writer: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        """Take up what the ledger holds, open every QPU and serve. Raises ``LedgerError``."""
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="hpcqc-ledger")
        self.events = await asyncio.get_running_loop().run_in_executor(
            self._writer,
            lambda: self._new_loop(
                writer=self._writer,
                checkpoint_every=self.pacing.checkpoint_events,
                keeps_trying=True,
            ),
        )
        await self.events.checkpoint(most=_JOBS_AT_START)
        self._begin()
        for name in self.qpus:
            with contextlib.suppress(QpuUnavailable):
                await self.backend(name)
        if self.events.state.asleep:
            await self.events.post(ev.BrokerOpened(resume=True))
        self._reopening = asyncio.ensure_future(self._reopen())

    async def _reopen(self) -> None:
        """Open QPUs that cannot be opened yet: jobs of an earlier broker wait for them."""
        while True:
            await asyncio.sleep(self.pacing.watch_s)
            for qpu in [name for name in self.qpus if name not in self._backends]:
                with contextlib.suppress(QpuUnavailable):
                    await self.backend(qpu)

    async def open_embedded(self, *, follows: bool = True) -> None:
        """Serve one process, committing on the loop. Raises ``LedgerError``, ``QpuUnavailable``.

        follows: also the tasks that an earlier, dead process has left.
        """
        self.events = self._new_loop()
        self._begin()
        # Only QPUs with such tasks are opened now.
        for record in tuple(self.events.state.jobs.values()):
            if record.open and follows:
                await self.backend(record.submitted.qpu)
        if self.events.state.asleep:
            await self.events.post(ev.BrokerOpened(resume=False))

    def _new_loop(self, **options: Any) -> EventLoop:
        return EventLoop(
            scope=self.scope,
            ledger=self.ledger,
            clock=self.clock,
            observe=self._observe if self.observers else None,
            pacing=self.pacing,
            **options,
        )

    def _begin(self) -> None:
        if self.limits is not None:
            self.quotas = Quotas(
                limits=self.limits,
                state=lambda: self.events.state,
                free_bytes=lambda: self.ledger.free_bytes,
            )
            self.quotas.restore()
        self.events.state.labels = self.labels
        self.watch = CalibrationWatch(self.events, every_s=self.pacing.watch_s)
        self._serving = asyncio.ensure_future(self.events.serve())
        accesses = {name: one.slurm for name, one in self.qpus.items() if one.slurm is not None}
        self.grants = GrantWatch(self.events, accesses, self.allocations, renew=self.watch.renew)
        self.watch.closures = self.grants.closures
        self.grants.start()

    async def close(
        self, cancel_s: float | None = None, *, abandoned: bool = False, finish_s: float = 0.0
    ) -> None:
        """Stop working; what runs on a QPU goes on there and is found again by the next broker.

        cancel_s: cancel all open jobs before, and wait so long for their end. abandoned: also
        those whose client is gone. finish_s: how long tasks that are on a QPU may go on before.
        """
        self.intake.close()
        if self._serving is None:
            return
        if self._reopening is not None:
            self._reopening.cancel()
            await asyncio.gather(self._reopening, return_exceptions=True)
        await self.watch.close()
        await self.grants.close()
        if cancel_s is not None:
            if finish_s > 0:
                waiting = [job for job, record in self._left(abandoned) if not record.open]
                await self._cancel(waiting, cancel_s)
                await self._ends([job for job, _ in self._left(abandoned)], finish_s)
            await self._cancel([job for job, _ in self._left(abandoned)], cancel_s)
        self._serving.cancel()
        await asyncio.wait([self._serving], timeout=self.pacing.close_s)
        await self.events.close()
        if self._writer is not None:
            self._writer.shutdown()

    def _left(self, abandoned: bool) -> list[tuple[JobId, JobRecord]]:
        """Return the jobs that have not ended. abandoned: also those whose client is gone."""
        return [
            (job, record)
            for job, record in self.events.state.jobs.items()
            if not record.state.is_final and (abandoned or not record.held)
        ]

    async def _ends(self, jobs: list[JobId], patience_s: float) -> None:
        """Return when these jobs have ended, or after a time."""
        if jobs:
            ends = [asyncio.wrap_future(self.events.wait_for(job)) for job in jobs]
            await asyncio.wait(ends, timeout=patience_s)

    async def _cancel(self, jobs: list[JobId], patience_s: float) -> None:
        posts = [self.events.post(ev.JobCancelRequested(job=job)) for job in jobs]
        await asyncio.gather(*posts, return_exceptions=True)
        await self._ends(jobs, patience_s)

    def _observe(self, commit: Commit) -> None:
        for observer in self.observers:
            try:
                observer(commit)
            except Exception:  # noqa: BLE001  # an observer must not end the broker
                _log.exception("an observer of the broker failed")

    def opened(self, qpu: str) -> Backend | None:
        """Return the backend of a QPU that is open; from any thread."""
        return self._backends.get(qpu)

    async def backend(self, qpu: str) -> Backend:
        """Return a QPU's backend, opened at its first use. Raises ``QpuUnavailable``."""
        if qpu in self._backends:
            return self._backends[qpu]
        async with self._opening:
            if qpu not in self._backends:
                try:
                    backend = await self._opened(qpu)
                except Exception as error:
                    self._broken[qpu] = f"{type(error).__name__}: {error}"
                    self._broken_at[qpu] = self.clock()
                    # A vendor's words may hold an address or a secret: they are for operators.
                    raise QpuUnavailable(
                        f"QPU {qpu!r} cannot be opened now; an operator sees why in its status"
                    ) from error
                self._broken.pop(qpu, None)
                self._backends[qpu] = backend
            return self._backends[qpu]

    async def _opened(self, qpu: str) -> Backend:
        if qpu not in self.qpus:
            listed = ", ".join(self.qpus)
            raise ConfigError(f"the site has no QPU {qpu!r}; it has: {listed or 'none'}")
        settings, backend = self.qpus[qpu], await asyncio.to_thread(self.open_backend, qpu)
        try:
            target = await asyncio.to_thread(backend.target)
            await self.watch.note(qpu, target, backend)
            reserved = self.grants.closures.get(qpu, ())
            self.events.attach(settings, backend, target, closures=reserved)
        except BaseException:
            with contextlib.suppress(Exception):
                await asyncio.to_thread(backend.close)
            raise
        self.watch.watch(settings, backend)
        return backend

    async def target(self, qpu: str) -> Target:
        """Return what a QPU accepts now. Raises ``QpuUnavailable``."""
        found = await asyncio.to_thread((await self.backend(qpu)).target)
        return self.qpus[qpu].as_stated(found)

    async def submit_untrusted(
        self, request: JobRequest, user: str, body: IO[bytes]
    ) -> tuple[JobView, bool]:
        """See `submit`; also raises ``PayloadRejected`` if it is invalid or costly to read."""
        target = await self.target(request.qpu)
        payload = await self.intake.read(body, user, request.qpu, target)
        return await self.submit(request, user, payload)

    async def submit(
        self, request: JobRequest, user: str, payload: CheckedPayload
    ) -> tuple[JobView, bool]:
        """Admit a job; return it once it is durable, and whether it is a new one. See `admit`."""
        request = self.labelled(request)
        if request.failover:
            await self.open_failover(request.failover)
        target = await self.target(request.qpu)
        await self.watch.note(request.qpu, target)
        job = request.job_id(payload.digest)
        reuse = None
        if request.may_reuse:
            reuse = await asyncio.to_thread(self.reuse, request, payload, target)
        ended = None if job in self.events.state.jobs else await self._ended(job)
        written = asyncio.get_running_loop().create_future()
        new = self.admit(request, user, payload, target, reuse, written, ended)
        await written
        return await self.view(job), new

    def labelled(self, request: JobRequest) -> JobRequest:
        """Return a request with all labels of its data: its own and those of its project."""
        labels = all_labels(request.labels, labels_of_project(request.project, self.labels))
        return request if labels == request.labels else replace(request, labels=labels)

    async def open_failover(self, qpu: str) -> None:
        """Open the QPU that may take over a job. Raises ``QpuUnavailable``, `NotGranted`."""
        await self.backend(qpu)
        if self.qpus[qpu].slurm is not None:
            raise NotGranted(
                f"QPU {qpu!r} is granted by Slurm and cannot take over jobs of another one; name a "
                "simulator"
            )

    def _refusal(self, request: JobRequest) -> str | None:
        """Return why the data of a job may not go to its QPU, None if it may."""
        settings = self.qpus[request.qpu]
        accepted = accepted_labels(settings.accepts, settings.jurisdictions)
        return refusal(request.labels, accepted, qpu=request.qpu, project=request.project)

    def admit(
        self,
        request: JobRequest,  # with all its labels
        user: str,  # empty where one process is the only user
        payload: CheckedPayload,  # checked against the target
        target: Target,
        reuse: ev.Reuse | None,
        written: asyncio.Future[None] | Future[None],
        ended: EndedJob | None = None,  # the same job, if it is in the ledger alone
    ) -> bool:
        """Admit a job on the loop; ``written`` is resolved when it is durable, or cannot be.

        A plain function: a coroutine would cost each call of a run a tenth of a millisecond.
        Returns whether the job is new; one that failed or was cancelled goes on with what is
        missing. Raises ``CalibrationChanged`` if it was prepared for another calibration,
        `DataRefused` by the labels of its data, ``PayloadRejected`` if the QPU can never run it,
        `InvalidRequest`, `NotGranted`, `TooManyJobs`, `StorageFull`. The refusal of a new job is in
        the ledger, and raised by ``written``.
        """
        events, job = self.events, request.job_id(payload.digest)
        known = events.state.jobs.get(job) or (None if ended is None else ended.job)
        if self.qpus[request.qpu].slurm is None and request.slurm_job is not None:
            request = replace(request, slurm_job=None)  # the broker alone shares this QPU
        goes_on = known is not None and not (
            known.held
            or known.state in (JobState.FAILED, JobState.CANCELLED)
            or _changes_grant(known, request, user)
        )
        if goes_on:
            written.set_result(None)
            return False
        if known is None:
            request = request.checked()
        refused = self._refusal(request)
        if refused is not None and known is not None:
            raise DataRefused(refused)
        if refused is None:
            self._check_runs(request, payload, target)
        if self.limits is not None:
            size = len(payload.data) if known is None else 0
            now_s = self.clock().timestamp()
            self.quotas.admit(job, user, request.project, size, now_s)
            written.add_done_callback(lambda _: self.quotas.arrived(job))
        if refused is not None:
            self._record_refusal(self._submitted(request, user, payload, None), refused, written)
            return True
        events.blobs.put(job, payload)
        if request.slurm_job is not None:
            written.add_done_callback(lambda _: self.grants.wake())
        if known is not None:
            resumed = ev.JobResumed(
                job=job, calibration=request.calibration, slurm_job=request.slurm_job
            )
            unstored = {payload.digest: payload.data} if known.submitted.refused else {}
            events.put(resumed, unstored, written)
            return False
        events.put(
            self._submitted(request, user, payload, reuse), {payload.digest: payload.data}, written
        )
        written.add_done_callback(lambda _: events.blobs.drop_unknown(job))
        return True

    def _record_refusal(
        self, submitted: ev.JobSubmitted, reason: str, written: asyncio.Future[None] | Future[None]
    ) -> None:
        """Keep a refused job in the ledger without its payload, then raise to its caller."""
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answer(_: asyncio.Future[None]) -> None:
            if not written.done():
                written.set_exception(stored.exception() or DataRefused(reason))

        stored.add_done_callback(answer)
        self.events.put(replace(submitted, refused=reason), {}, stored)

    def _check_runs(self, request: JobRequest, payload: CheckedPayload, target: Target) -> None:
        """Raise why a job cannot run on its QPU as it is asked for."""
        if request.calibration not in ("", target.calibration.id):
            raise CalibrationChanged(
                f"QPU {request.qpu!r} was calibrated anew: the job was transpiled for calibration "
                f"{request.calibration}, and it is {target.calibration.id} now; transpile it again"
            )
        if self.qpus[request.qpu].slurm is not None and request.slurm_job is None:
            raise NotGranted(
                f"QPU {request.qpu!r} is granted by Slurm, and the job names no Slurm job that holds "
                "it; call it in a quantum stage, or run inside a job that has it"
            )
        if payload.unfit is not None:
            raise PayloadRejected(payload.unfit)

    def _submitted(
        self, request: JobRequest, user: str, payload: CheckedPayload, reuse: ev.Reuse | None
    ) -> ev.JobSubmitted:
        asked: dict[str, Any] = {name: getattr(request, name) for name in _REQUEST}
        if request.lease is not None:
            asked["lease"] = replace(request.lease, id=_owned(user, request.lease.id))
        return ev.JobSubmitted(
            **asked,
            job=request.job_id(payload.digest),
            backend=self.qpus[request.qpu].backend,
            payload_kind=payload.kind,
            digest=payload.digest,
            pubs=payload.pubs,
            num_qubits=payload.num_qubits,
            user=user,
            reuse=reuse,
        )

    def reuse(self, request: JobRequest, payload: CheckedPayload, target: Target) -> ev.Reuse:
        """Return under which key a result is used again, and whose result there is; blocks."""
        project = request.project
        audience = results_audience(project, shares=project in self.sharing)
        settings = self.qpus[request.qpu]
        key = reuse_key(payload, settings, target, audience, request.labels)
        source = self.events.blobs.source(key)
        return ev.Reuse(key=key, calibration=target.calibration.id, source=source)

    async def view(self, job: JobId) -> JobView:
        """Return a job as it is now. Raises `JobUnknown`."""
        found = self.view_at_hand(job)
        if found is None:
            ended = await self._ended(job)
            found = self.view_at_hand(job) or (None if ended is None else ended.view)
        if found is None:
            raise JobUnknown(f"no job {job!r}")
        return found

    def view_at_hand(self, job: JobId) -> JobView | None:
        """Return a job that is in memory; from any thread."""
        state = self.events.state
        return job_view(state.jobs[job], state.tasks) if job in state.jobs else None

    async def jobs(self, wanted: JobFilter) -> list[JobView]:
        """Return the wanted jobs of this service at one moment, in order of submission."""
        state = self.events.state
        # What is in memory counts, also for jobs that are moved out of it this moment.
        here, tasks = dict(state.jobs), _with_forgotten(state)
        records = [
            record
            async for records in _slices(list(here.values()), _LOOKED_AT)
            for record in records
            if wanted.includes(record)
        ]
        records.sort(key=lambda record: record.submitted_at)
        latest = records[-wanted.limit if wanted.limit else 0 :]
        found = [
            job_view(record, tasks)
            async for records in _slices(latest, _VIEWED)
            for record in records
        ]
        # What is stored apart has ended, so it is not looked through for what has not.
        if state.past and (wanted.state is None or wanted.state.is_final):
            of_ours = replace(wanted, scope=self.scope)
            return await asyncio.to_thread(
                lambda: _merged(found, self.ledger.ended(of_ours), here, wanted.limit)
            )
        return found

    async def _ended(self, job: JobId) -> EndedJob | None:
        """Return a job that is in the ledger alone."""
        if not self.events.state.past:
            return None
        return await asyncio.to_thread(self.ledger.ended_job, self.scope, job)

    def is_waiting(self, job: JobView) -> bool:
        """Whether a client is to wait on although the job is uncertain."""
        rule = self.qpus[job.qpu].uncertain if job.qpu in self.qpus else "ask"
        return job.state is JobState.UNCERTAIN and rule != "ask"

    async def uses(self) -> dict[str, ProjectTotals]:
        """Return what each project used so far."""
        state = self.events.state
        records, tasks = list(state.jobs.values()), _with_forgotten(state)
        uses = {
            project: ProjectTotals(jobs=past.jobs, usage=past.usage)
            for project, past in state.past.items()
        }
        async for some in _slices(records, _VIEWED):
            for job in (job_view(record, tasks) for record in some):
                use = uses.setdefault(job.project, ProjectTotals())
                use.jobs += 1
                use.open += not job.state.is_final
                use.usage += job.usage
        return uses

    async def slots(self, since: datetime) -> list[TaskShare]:
        """Return the tasks that were at work on QPUs since then, one entry for each job in them."""
        jobs = await self.jobs(JobFilter(since=since))
        return await asyncio.to_thread(
            lambda: [
                TaskShare(job=job, task=task)
                for job in jobs
                for task in job.tasks
                if task.started_at is not None and (task.ended_at is None or task.ended_at >= since)
            ]
        )

    async def wait(self, job: JobId, timeout_s: float) -> JobView:
        """Return the job when it has ended or is uncertain, or as it is when the time is up."""
        if not (await self.view(job)).state.is_final and timeout_s > 0:
            arrival = self._arrivals.get(job)
            if arrival is None or arrival.done():
                arrival = asyncio.wrap_future(self.events.wait_for(job))
                self._arrivals[job] = arrival
                arrival.add_done_callback(lambda _: self._arrivals.pop(job, None))
            await asyncio.wait([arrival], timeout=timeout_s)
            if arrival.done() and (error := arrival.exception()) is not None:
                raise error
        return await self.view(job)

    async def result(self, job: JobId) -> bytes:
        """Return the bytes of a completed job's result, as `result_from_bytes` reads them."""
        ended = await self._over(job)
        if job in self.events.state.jobs:
            await self._be_written(job)
        data = await asyncio.to_thread(self.events.blobs.encoded_result, ended)
        self.events.blobs.forget(job)
        return data

    async def _be_written(self, job: JobId) -> None:
        """Wait until a job's end is in the ledger: its view is ahead of the commit for a moment."""
        end = self.events.wait_for(job)
        if not end.done():
            arrival = asyncio.wrap_future(end)
            arrival.add_done_callback(lambda done: done.exception())  # the ledger says why
            await asyncio.wait([arrival], timeout=_COMMIT_S)

    async def _over(self, job: JobId) -> EndedJob:
        """Return a job that has ended. Raises `JobUnknown`."""
        state = self.events.state
        if job in state.jobs:
            return ended_job(state, job)
        ended = await self._ended(job)
        if ended is None:
            raise JobUnknown(f"no job {job!r}")
        return ended

    async def cancel(self, job: JobId) -> bool:
        """Ask for a job's end, also on the QPU; return False if it was too late."""
        if (await self.view(job)).state.is_final:
            return False
        await self.events.post(ev.JobCancelRequested(job=job))
        return True

    async def release(self, qpu: str, lease: str, user: str = "") -> None:
        """End a user's lease before its time; one that has ended stays as it is."""
        owned = _owned(user, lease)
        event = ev.LeaseClosed(lease=owned, qpu=qpu, reason="released", at=self.clock())
        await self.events.post(event)

    async def why(self, job: JobId) -> Explanation:
        """Return why a job waits, or went when it did. Raises `JobUnknown`."""
        state = self.events.state
        if job in state.jobs:
            return explain(state, job, self.clock())
        ended = await self._over(job)
        alone = BrokerState()
        alone.recall(ended.job, ended.tasks)
        return replace(explain(alone, job, self.clock()), overtaken_by=None)

    async def resolve(
        self,
        job: JobId,
        verdict: ev.Verdict,
        by: str,
        reason: str,
        metered: Metered = NOTHING_METERED,
        metering: Metering | None = None,
    ) -> JobView:
        """Settle the uncertain tasks of a job by an operator's word. Raises `NotUncertain`.

        Open tasks on a QPU that the site has no longer count as uncertain: nobody looks for them.

        metered: what the site's meter says of these tasks together. Raises `MeteredRefused` for a
        verdict other than failed. metering: of a QPU that is not open here, if it is known.
        """
        metered.check(verdict)
        seen = await self.view(job)
        state = self.events.state
        record = state.jobs.get(job)
        if record is not None and record.submitted.qpu not in self.qpus:
            removed = f"the site has no QPU {record.submitted.qpu!r} any more"
            for tag in sorted(record.open - record.uncertain):
                await self.events.post(ev.TaskUncertain(tag=tag, reason=removed))
        uncertain = sorted(record.uncertain) if record is not None else []
        if not uncertain:
            raise NotUncertain(f"job {job} is {seen.state}; it has no uncertain task")
        tasks = [state.tasks[tag] for tag in uncertain]
        jobs = {one: state.jobs[one].submitted for task in tasks for one in task.jobs}
        rules = state.rules.get(tasks[0].planned.qpu)
        metering = metering if rules is None else rules.metering
        usages = metered_usages(metered, tasks, jobs, metering)
        for tag, usage in zip(uncertain, usages, strict=True):
            event = ev.TaskResolved(tag=tag, verdict=verdict, by=by, reason=reason, usage=usage)
            await self.events.post(event)
        return await self.view(job)

    async def drain(self, qpu: str, by: str, reason: str) -> None:
        """Start nothing further on a QPU; what runs goes on to its end."""
        await self.events.post(ev.QpuDrained(qpu=qpu, by=by, reason=reason))

    async def resume(self, qpu: str, by: str) -> None:
        """Let a QPU take work again."""
        await self.events.post(ev.QpuResumed(qpu=qpu, by=by))

    def status(self, qpu: str) -> QpuStatus:
        """Return how a QPU stands."""
        return replace(self._standing(qpu), runs=len(self.events.state.active_runs(qpu)))

    def _standing(self, qpu: str) -> QpuStatus:
        """Return a QPU's status without its runs, which take longer to count."""
        state, settings = self.events.state, self.qpus[qpu]
        drained, now, denied = state.drained.get(qpu), self.clock(), state.denied.get(qpu)
        broken = self._broken.get(qpu) or (None if denied is None else denied.words())
        is_served = qpu in state.rules
        calendar = state.rules[qpu].calendar if is_served else Calendar()
        closure = calendar.closure_at(now)
        history = state.histories.get(qpu)
        predicted = 0 if history is None else history.accuracy.tasks
        return QpuStatus(
            name=qpu,
            backend=settings.backend,
            state="unavailable" if broken else "drained" if drained else "online",
            reason=broken or (drained.reason if drained else None),
            denied_since=None if denied is None else denied.since,
            queued=len(state.queued(qpu)),
            open=len(state.open_tasks(qpu)),
            closed=closure is not None,
            closure=closure or calendar.next_closure(now),
            predicted=predicted,
            error=history.accuracy.error if history is not None and predicted else None,
            work_s=work_left_s(state, state.context(qpu, now), now) if is_served else None,
            accepts=tuple(sorted(accepted_labels(settings.accepts, settings.jurisdictions))),
        )

    def readiness(self, qpu: str, *, qubits: int = 1, seconds: float = 0.0) -> QpuReadiness:
        """Return whether a QPU works, and has room for a job of so many qubits and QPU-seconds."""
        now, status, backend = self.clock(), self._standing(qpu), self._backends.get(qpu)
        silent = self.watch.silent_since.get(qpu)
        unknown = status.state == "online" and (backend is None or silent is not None)
        operational = None if unknown else status.state == "online"
        why = status.standstill if operational is False else None
        if unknown and silent is not None:
            why = f"{qpu} has not answered since {in_utc(silent)}"
        asks = self.qpus[qpu].slurm is not None and self.allocations is not None
        rules = self.events.state.rules.get(qpu)
        answers = QpuReadiness(
            name=qpu,
            operational=operational,
            operational_reason=why,
            slots=None if rules is None else rules.limits.max_concurrent_tasks,
            open=status.open,
            sources=self._sources(qpu, status, asks=asks),
            asked_at=now,
            read_at=self.watch.read_at.get(qpu),
            slurm_at=self.grants.answered_at if asks else None,
            slurm_error=self.grants.error if asks else None,
        )
        if operational is None or qpu not in self.events.state.rules:
            return answers
        context = self.events.state.context(qpu, now)
        reason = status.standstill or no_room(context, now, seconds)
        target = self.watch.targets.get(qpu)  # asking the device could take long
        if target is not None and target.num_qubits is not None and qubits > target.num_qubits:
            reason = f"it has {target.num_qubits} qubits; {qubits} were asked for"
        return replace(answers, has_room=reason is None, room_reason=reason)

    def _sources(self, qpu: str, status: QpuStatus, *, asks: bool) -> dict[str, FactSource]:
        """Return when, and with whose credentials, each fact about a QPU was obtained."""
        user, now, read_at = login_name(), self.clock(), self.watch.read_at.get(qpu)
        device = FactSource(at=read_at, credentials=credentials_used(self.qpus[qpu].options, user))
        if status.state == "unavailable":
            stated = replace(device, at=self._broken_at.get(qpu) or status.denied_since)
        elif status.state == "drained":
            stated = FactSource(at=now, credentials="broker")
        else:
            stated = device
        ready = device
        if status.standstill is not None and qpu in self.events.state.rules:
            ready = FactSource(at=now, credentials="broker")
        elif asks:
            both = (read_at, self.grants.answered_at)
            oldest = None if None in both else min(at for at in both if at is not None)
            ready = FactSource(at=oldest, credentials=f"{device.credentials}; Slurm as {user}")
        return {"status": stated, "capacity": device, "readiness": ready}

    async def choose(self, request: ChoiceRequest, user: str = "") -> QpuChoice:
        """Choose a QPU for work that names none, by what is known now; the ledger keeps why.

        The choice names no QPU if none fits. Raises `LedgerError`.
        """
        request = with_labels(request, labels_of_project(request.project, self.labels))
        facts = await asyncio.gather(*(self._facts(qpu, request) for qpu in self.qpus))
        before = self.events.state.chosen_before(request.run, request.stage, user)
        choice = choose(request, facts, before=before)
        if not choice.qpu or choice.qpu != before:
            await self.events.post(
                ev.QpuChosen(
                    run=request.run,
                    stage=request.stage,
                    user=user,
                    project=request.project,
                    choice=choice,
                    needs=request.needs,
                )
            )
        return choice

    async def _facts(self, qpu: str, request: ChoiceRequest) -> QpuFacts:
        """Return what counts of a QPU in a choice; one that must not get the data is not asked."""
        settings = self.qpus[qpu]
        accepted = accepted_labels(settings.accepts, settings.jurisdictions)
        needs, bare = request.needs, QpuFacts(name=qpu, accepted=accepted, is_described=False)
        kept = refusal(needs.all_labels, accepted, qpu=qpu, project=request.project)
        if kept is not None or (request.among and qpu not in request.among):
            return bare
        try:
            await self.backend(qpu)
        except QpuUnavailable:
            return replace(bare, fault=f"{qpu} cannot be opened now")
        target = settings.as_stated(self.watch.targets[qpu])
        status, now = self._standing(qpu), self.clock()
        ready = self.readiness(qpu, qubits=needs.qubits)
        wait_s = status.work_s
        if status.closed and status.closure is not None and wait_s is not None:
            wait_s += (status.closure.end - now).total_seconds()
        load = Load(
            circuits=request.circuits,
            shots=request.shots,
            num_qubits=needs.qubits,
            layers=needs.qubits * request.shots,
            weight=request.shots,
        )
        rules = self.events.state.rules[qpu]
        seconds = predicted_seconds(load, rules.timing)
        charge = predicted_charge(load, target.metering, seconds)
        known = request.fidelities.get(qpu)
        errors = await asyncio.to_thread(device_errors, target)
        error, fidelity = errors.two_qubit, device_fidelity(target, needs.qubits)
        is_ideal = registry.is_ideal(settings.backend, settings.options)
        if is_ideal:
            error, fidelity = 0.0, 1.0
        return replace(
            bare,
            is_described=True,
            paradigms=paradigms(target.payload_kinds),
            qubits=target.num_qubits,
            coupling_class=target.coupling_class,
            error=error,
            fidelity=fidelity if is_ideal or known is None else known,
            of_circuits=is_ideal or known is not None,
            wait_s=None if settings.slurm is not None else wait_s,  # Slurm's queue is not known
            cost=None if seconds is None else charge.amount,
            unit=charge.unit,
            calibration=target.calibration.id,
            fault=ready.operational_reason if ready.operational is False else None,
        )

    async def fault(self) -> str | None:
        """Return why no work can be accepted now, None while all is well."""
        if self.events.failure is not None:
            return self.events.failure
        try:
            await asyncio.to_thread(self.ledger.runs)
        except LedgerError as error:
            return str(error)
        return None


def _changes_grant(known: JobRecord, request: JobRequest, user: str) -> bool:
    """Whether the user's next Slurm job takes over work that waits or runs under an earlier one."""
    submitted = known.submitted
    return (
        request.slurm_job is not None
        and request.slurm_job != submitted.slurm_job
        and user == submitted.user
        and not known.state.is_final
        and not known.uncertain
    )


def _owned(user: str, lease: str) -> str:
    """Return a lease's id with its user, so that users cannot join each other's leases."""
    return str(OwnedName(user, lease)) if user else lease


def _with_forgotten(state: BrokerState) -> Mapping[str, TaskRecord]:
    """Return all tasks, those included that the state forgets from now on."""
    return ChainMap(state.tasks, dict(state.tasks))


async def _slices(items: Sequence[_Item], most: int) -> AsyncIterator[Sequence[_Item]]:
    """Yield pieces of a list, and let others have the event loop after each."""
    for first in range(0, len(items), most):
        yield items[first : first + most]
        await asyncio.sleep(0)


def _merged(
    found: list[JobView], ended: list[JobView], here: Mapping[JobId, JobRecord], limit: int | None
) -> list[JobView]:
    """Return jobs from memory and from the ledger, the latest of them, in order of submission."""
    both = found + [view for view in ended if view.id not in here]
    both.sort(key=lambda view: view.submitted_at)
    return both[-limit if limit else 0 :]
