"""A broker inside the flow's own process, for one run, over a ledger file it may share."""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar, runtime_checkable

from backends.api import Backend, Target, TaskCancelled
from backends.payloads import Payload
from orchestrator.broker.client.protocol import job_error
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.records import job_view
from orchestrator.broker.core.snapshot import ended_job
from orchestrator.broker.core.views import JobState, JobView
from orchestrator.broker.ledger import Ledger
from orchestrator.broker.runtime.admission import job_submitted
from orchestrator.broker.runtime.calibration_watch import Upkeep
from orchestrator.broker.runtime.checked_payload import CheckedPayload
from orchestrator.broker.runtime.event_loop import BrokerService
from orchestrator.broker.runtime.reuse import reuse_key
from orchestrator.config.site import QpuSettings
from orchestrator.identity import JobId, RunAccount, lock_file_name

__all__ = ["EmbeddedBroker", "Prewarmable", "RunBusy"]

T = TypeVar("T")
_CLOSE_S = 5.0
_LOOK_S = 0.001
_CLOSED = "the broker of this run is closed"


@runtime_checkable
class Prewarmable(Protocol):
    """A backend that can start its processes before the first task."""

    def prewarm(self) -> None:
        """Begin to start; return at once."""
        ...


class RunBusy(ValueError):
    """Another live process works on the same run."""


class EmbeddedBroker:
    """The broker of one run in this process (see `BrokerClient` for the calls).

    open_backend: builds the backend of a QPU by name, when it is first used; also called for
    QPUs on which tasks of an earlier, dead process may still run. settings: of a QPU by name.
    """

    def __init__(
        self,
        *,
        run: str,
        state_dir: Path,
        open_backend: Callable[[str], Backend],
        settings: Callable[[str], QpuSettings],
    ) -> None:
        """Take note of the arguments; `open` does the work."""
        self._run = run
        self._state_dir = state_dir
        self._open_backend = open_backend
        self._settings = settings
        self._backends: dict[str, Backend] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._lock_file: IO[str] | None = None
        self._ledger: Ledger | None = None
        self._service: BrokerService | None = None
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread

    def open(self) -> EmbeddedBroker:
        """Open the ledger, take up what an earlier process left, and start the thread.

        Raises `RunBusy` if another process has this run open, ``LedgerError``.
        """
        self._ledger = Ledger.open(self._state_dir / "ledger.sqlite")
        self._lock_file = _lock_run(self._state_dir, self._run)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="hpcqc-broker", daemon=True)
        self._thread.start()
        self._service = self._on_loop(self._start_service(self._ledger))
        for record in tuple(self._service.state.jobs.values()):
            if record.open:
                self.backend(record.submitted.qpu)
        if self._service.state.asleep:
            self._on_loop(self._service.post(ev.BrokerOpened(resume=False)))
        return self

    def backend(self, qpu: str) -> Backend:
        """Return the backend of a QPU, built at its first use and shared from then on."""
        with self._lock:
            if qpu not in self._backends:
                if self._closed:
                    raise TaskCancelled(_CLOSED)
                backend = self._open_backend(qpu)
                self._on_loop(self._attach(qpu, backend))
                self._backends[qpu] = backend
            return self._backends[qpu]

    def target(self, qpu: str) -> Target:
        """See `BrokerClient.target`."""
        return self.backend(qpu).target()

    def prewarm(self, qpu: str) -> None:
        """See `BrokerClient.prewarm`."""
        backend = self.backend(qpu)
        if isinstance(backend, Prewarmable):
            backend.prewarm()

    def submit(self, request: JobRequest, payload: Payload) -> JobId:
        """See `BrokerClient.submit`."""
        self.backend(request.qpu)
        content = CheckedPayload.of(payload)  # here, for the loop serves other callers meanwhile
        reuse = self._reuse(request, content) if request.may_reuse else None
        backend = self._settings(request.qpu).backend
        submitted = job_submitted(request, content, backend, reuse=reuse)
        written: Future[None] = Future()
        try:
            self._loop.call_soon_threadsafe(self._accept, submitted, payload, content.data, written)
        except RuntimeError as error:  # the loop is closed
            raise TaskCancelled(_CLOSED) from error
        written.result()
        return submitted.job

    def limit(self, unit: str, amount: float | None) -> None:
        """Let the run cost so much of a unit in all; None takes the limit away."""
        account = str(RunAccount(self._run))
        event = ev.BudgetSet(account=account, unit=unit, amount=amount, by="run")
        self._on_loop(self._running_service.post(event))

    def is_limited(self) -> bool:
        """Whether the run has a budget in any unit, set now or by an earlier process."""
        budgets = self._running_service.state.books.status(str(RunAccount(self._run)))
        return any(budget.amount is not None for budget in budgets)

    def _reuse(self, request: JobRequest, payload: CheckedPayload) -> ev.Reuse:
        target = self.backend(request.qpu).target()
        key = reuse_key(payload, self._settings(request.qpu), target, "")
        source = self._running_service.contents.source(key)
        return ev.Reuse(key=key, calibration=target.calibration.id, source=source)

    def result(self, job: JobId, timeout_s: float | None = None) -> Any:
        """See `BrokerClient.result`."""
        service = self._running_service
        service.wait_for(job).result(timeout_s)
        view = self.view(job)
        if view.state is not JobState.COMPLETED:
            raise job_error(view)
        merged = service.contents.result(ended_job(service.state, job))
        service.contents.forget(job)
        return merged

    def cancel(self, job: JobId) -> bool:
        """See `BrokerClient.cancel`."""
        return self._on_loop(self._cancel(job))

    def release(self, qpu: str, lease: str) -> None:
        """See `BrokerClient.release`."""
        event = ev.LeaseClosed(lease=lease, qpu=qpu, reason="released", at=datetime.now(UTC))
        self._on_loop(self._running_service.post(event))

    def view(self, job: JobId) -> JobView:
        """See `BrokerClient.view`."""
        state = self._running_service.state
        return job_view(state.jobs[job], state.tasks)

    def cancel_all(self) -> int:
        """Cancel every open job; return how many there were."""
        if self._service is None or self._closed:
            return 0
        jobs = [job for job, record in self._service.state.jobs.items() if not record.held]
        return sum(self.cancel(job) for job in jobs)

    def close(self) -> None:
        """Cancel what is open, wait briefly for it, and free threads, processes and lock."""
        if self._closed:
            return
        self._closed = True
        if self._service is not None:
            self._on_loop(self._shut(self._service))
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_CLOSE_S)
        if self._ledger is not None:
            self._ledger.close()
        if self._lock_file is not None:
            self._lock_file.close()

    def _run_loop(self) -> None:
        """Run the event loop to its end in this thread: that of `close` may have one running."""
        self._loop.run_forever()
        # Calls that came in meanwhile are told so, too.
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    @property
    def _running_service(self) -> BrokerService:
        if self._service is None or self._closed:
            raise TaskCancelled(_CLOSED)
        return self._service

    async def _start_service(self, ledger: Ledger) -> BrokerService:
        service = BrokerService(scope=self._run, ledger=ledger, clock=lambda: datetime.now(UTC))
        self._serving = asyncio.ensure_future(service.serve())
        self._upkeep = Upkeep(service)
        return service

    async def _attach(self, qpu: str, backend: Backend) -> None:
        self._running_service.attach(self._settings(qpu), backend)
        await self._upkeep.watch(self._settings(qpu), backend)

    def _accept(
        self, submitted: ev.JobSubmitted, payload: Payload, data: bytes, written: Future[None]
    ) -> None:
        """Take a call in, on the loop; a coroutine would cost each call a tenth of a millisecond."""
        try:
            service = self._running_service
            record = service.state.jobs.get(submitted.job)
            if record is None:
                service.contents.payloads[submitted.job] = payload
                service.put(submitted, {submitted.digest: data}, written)
            elif record.held or record.state in (JobState.FAILED, JobState.CANCELLED):
                service.contents.payloads[submitted.job] = payload
                resumed = ev.JobResumed(job=submitted.job, calibration=submitted.calibration)
                service.put(resumed, {}, written)
            else:
                written.set_result(None)
        except Exception as error:  # noqa: BLE001  # whatever it is, the caller is told
            written.set_exception(error)

    async def _cancel(self, job: JobId) -> bool:
        service = self._running_service
        if service.state.jobs[job].state.is_final:
            return False
        await service.post(ev.JobCancelRequested(job=job))
        return True

    async def _shut(self, service: BrokerService) -> None:
        await self._upkeep.close()
        open_jobs = [
            job
            for job, record in service.state.jobs.items()
            if not record.state.is_final and not record.held
        ]
        waiters = [asyncio.wrap_future(service.wait_for(job)) for job in open_jobs]
        posts = [service.post(ev.JobCancelRequested(job=job)) for job in open_jobs]
        if open_jobs:
            await asyncio.gather(*posts, return_exceptions=True)
            await asyncio.wait(waiters, timeout=_CLOSE_S)
        self._serving.cancel()
        await service.close()

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            waiting = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError as error:  # the loop is closed
            work.close()
            raise TaskCancelled(_CLOSED) from error
        return waiting.result()


def _lock_run(state_dir: Path, run: str) -> IO[str]:
    folder = state_dir / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / lock_file_name(run)).open("a+")
    try:
        while not _locked(lock, fcntl.LOCK_EX):
            # Where a shared lock is granted, somebody only looks whether the run is open.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            time.sleep(_LOOK_S)
    except OSError as error:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        lock.close()
        raise RunBusy(
            f"run {run!r} is being worked on by process {holder}; wait for it, end it, or "
            "choose another run id"
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _locked(file: IO[str], mode: int) -> bool:
    try:
        fcntl.flock(file, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
