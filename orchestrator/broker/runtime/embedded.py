"""The broker of one run, in a thread of the flow's own process."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar, runtime_checkable

from backends.api import Backend, QpuUnavailable, Target, TaskCancelled
from backends.metering import Metering
from backends.payloads import Payload
from orchestrator.broker.client.protocol import job_error
from orchestrator.broker.client.status import JobUnknown, unreachable
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.choice import ChoiceRequest, QpuChoice
from orchestrator.broker.core.explain import Explanation
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.metered import NOTHING_METERED, Metered
from orchestrator.broker.core.rules import Window
from orchestrator.broker.core.snapshot import ended_job
from orchestrator.broker.core.views import JobState, JobView, LostAccess
from orchestrator.broker.ledger import Ledger
from orchestrator.broker.runtime.broker import Broker
from orchestrator.broker.runtime.checked_payload import CheckedPayload
from orchestrator.broker.runtime.event_loop import Commit
from orchestrator.broker.runtime.grant_watch import Allocations
from orchestrator.broker.runtime.pacing import STANDARD_PACING, Pacing
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.identity import JobId, RunAccount, lock_file_name

__all__ = ["EmbeddedBroker", "Prewarmable", "RunBusy"]

T = TypeVar("T")
_log = logging.getLogger(__name__)
_LOCK_PAUSE_S = 0.001
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
    """A `Broker` on a thread of this process, with the lock of its run; any thread may call.

    See `BrokerClient` for the calls. open_backend: builds the backend of a QPU by name, when it is
    first used; also called for QPUs on which tasks of an earlier, dead process may still run.
    labels: of the data of all jobs.
    """

    def __init__(
        self,
        *,
        run: str,
        state_dir: Path,
        open_backend: Callable[[str], Backend],
        qpus: Mapping[str, QpuSettings],
        allocations: Allocations | None = None,
        pacing: Pacing = STANDARD_PACING,
        labels: tuple[str, ...] = (),
    ) -> None:
        """Take note of the arguments; `open` does the work."""
        self._run = run
        self._state_dir = state_dir
        self._open_backend = open_backend
        self._qpus = qpus
        self._allocations = allocations
        self._pacing = pacing
        self._labels = labels
        self._closed = False
        self._lock_file: IO[str] | None = None
        self._ledger: Ledger | None = None
        self._broker: Broker | None = None
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread

    def open(self, *, follows: bool = True) -> EmbeddedBroker:
        """Open the ledger and start the thread. Raises `RunBusy`, ``LedgerError``.

        follows: find and follow the tasks that an earlier, dead process of the run has left.
        """
        self._ledger = Ledger.open(self._state_dir / "ledger.sqlite")
        self._lock_file = _lock_run(self._state_dir, self._run)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="hpcqc-broker", daemon=True)
        self._thread.start()
        self._broker = Broker(
            qpus=self._qpus,
            ledger=self._ledger,
            clock=lambda: datetime.now(UTC),
            open_backend=self._open_backend,
            scope=self._run,
            limits=None,
            allocations=self._allocations,
            pacing=self._pacing,
            labels={"": self._labels},  # jobs of a run name no project
            observers=[_log_access],
        )
        with _own_words():
            self._on_loop(self._broker.open_embedded(follows=follows))
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """See `BrokerClient.labels`."""
        return self._labels

    def backend(self, qpu: str) -> Backend:
        """Return the backend of a QPU, built at its first use and shared from then on."""
        broker = self._running
        opened = broker.opened(qpu)
        if opened is not None:
            return opened
        with _own_words(qpu):
            return self._on_loop(broker.backend(qpu))

    def target(self, qpu: str) -> Target:
        """See `BrokerClient.target`."""
        target = self.backend(qpu).target()
        return self._qpus[qpu].as_stated(target)

    def prewarm(self, qpu: str) -> None:
        """See `BrokerClient.prewarm`."""
        backend = self.backend(qpu)
        if isinstance(backend, Prewarmable):
            backend.prewarm()

    def submit(self, request: JobRequest, payload: Payload) -> JobId:
        """See `BrokerClient.submit`."""
        request = self._running.labelled(request)
        if request.failover:
            with _own_words(request.failover):
                self._on_loop(self._running.open_failover(request.failover))
        target = self.target(request.qpu)
        checked = CheckedPayload.of(payload, target)  # here: the loop serves other callers
        broker = self._running
        if not broker.watch.is_known(request.qpu, target):
            self._on_loop(broker.watch.note(request.qpu, target))
        reuse = broker.reuse(request, checked, target) if request.may_reuse else None
        written: Future[None] = Future()

        def admit() -> None:
            try:
                self._running.admit(request, "", checked, target, reuse, written)
            except Exception as error:  # noqa: BLE001  # raised to the caller below
                written.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(admit)
        except RuntimeError as error:  # the loop is closed
            raise TaskCancelled(_CLOSED) from error
        written.result()
        return request.job_id(checked.digest)

    def limit(self, unit: str, amount: float | None) -> None:
        """Let the run cost so much of a unit in all; None takes the limit away."""
        account = str(RunAccount(self._run))
        event = ev.BudgetSet(account=account, unit=unit, amount=amount, by="run")
        self._on_loop(self._running.events.post(event))

    def is_limited(self) -> bool:
        """Whether the run has a budget in any unit, set now or by an earlier process."""
        budgets = self._running.events.state.books.status(str(RunAccount(self._run)))
        return any(budget.amount is not None for budget in budgets)

    def result(self, job: JobId, timeout_s: float | None = None) -> Any:
        """See `BrokerClient.result`."""
        events = self._running.events
        events.wait_for(job).result(timeout_s)
        view = self.view(job)
        if view.state is not JobState.COMPLETED:
            raise job_error(view)
        merged = events.blobs.result(ended_job(events.state, job))
        events.blobs.forget(job)
        return merged

    def choose(self, request: ChoiceRequest) -> QpuChoice:
        """See `BrokerClient.choose`."""
        return self._on_loop(self._running.choose(request))

    def cancel(self, job: JobId) -> bool:
        """See `BrokerClient.cancel`."""
        return self._on_loop(self._running.cancel(job))

    def release(self, qpu: str, lease: str) -> None:
        """See `BrokerClient.release`."""
        self._on_loop(self._running.release(qpu, lease))

    def view(self, job: JobId) -> JobView:
        """See `BrokerClient.view`."""
        view = self._running.view_at_hand(job)
        if view is None:
            raise JobUnknown(f"no job {job!r}")
        return view

    def why(self, job: str) -> Explanation:
        """See `BrokerClient.why`."""
        return self._on_loop(self._running.why(JobId(job)))

    def resolve(
        self,
        job: JobId,
        verdict: ev.Verdict,
        reason: str,
        metered: Metered = NOTHING_METERED,
        metering: Metering | None = None,
    ) -> JobView:
        """See `Broker.resolve`."""
        return self._on_loop(self._running.resolve(job, verdict, "user", reason, metered, metering))

    def reserved(self, qpu: str) -> tuple[Window, ...]:
        """Return the maintenance of a QPU that Slurm has reserved, as it was read last."""
        return () if self._broker is None else self._broker.grants.closures.get(qpu, ())

    def cancel_all(self) -> int:
        """Cancel every open job; return how many there were."""
        if self._broker is None or self._closed:
            return 0
        records = tuple(self._broker.events.state.jobs.items())  # the loop changes them meanwhile
        jobs = [job for job, record in records if not record.held]
        return sum(self.cancel(job) for job in jobs)

    def close(self, *, abandoned: bool = False, resuming_s: float | None = None) -> None:
        """Cancel what is open, wait briefly for it, and free threads, processes and lock.

        abandoned: also jobs of an earlier process that this one has not taken over. resuming_s: as
        `BrokerClient.close` has it.
        """
        if self._closed:
            return
        self._closed = True
        if self._broker is not None:
            self._on_loop(
                self._broker.close(
                    self._pacing.close_s, abandoned=abandoned, finish_s=resuming_s or 0.0
                )
            )
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(self._pacing.close_s)
        if self._ledger is not None:
            self._ledger.close()
        if self._lock_file is not None:
            self._lock_file.close()

    def _run_loop(self) -> None:
        """Run the event loop to its end in this thread: that of `close` may have one running."""
        self._loop.run_forever()
        # Calls that came in meanwhile fail too.
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    @property
    def _running(self) -> Broker:
        if self._broker is None or self._closed:
            raise TaskCancelled(_CLOSED)
        return self._broker

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            waiting = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError as error:  # the loop is closed
            work.close()
            raise TaskCancelled(_CLOSED) from error
        return waiting.result()


def _log_access(commit: Commit) -> None:
    """Warn of a QPU that refuses the credentials: the run would wait without a word."""
    for event in commit.events:
        if isinstance(event, ev.QpuAccessLost):
            lost = LostAccess(qpu=event.qpu, since=commit.at, reason=event.reason)
            _log.warning("%s", lost.words())
        elif isinstance(event, ev.QpuAccessRegained):
            _log.warning("QPU %s accepts the credentials again", event.qpu)


@contextmanager
def _own_words(qpu: str | None = None) -> Iterator[None]:
    """Raise why a QPU cannot be opened: the user of the process is its operator."""
    try:
        yield
    except QpuUnavailable as error:
        cause, error.__cause__ = error.__cause__, None  # else each error is behind the other
        if qpu is not None and isinstance(cause, QpuUnavailable):
            raise unreachable(qpu, cause) from None
        raise cause or error from None


def _lock_run(state_dir: Path, run: str) -> IO[str]:
    folder = state_dir / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / lock_file_name(run)).open("a+")
    try:
        while not _locked(lock, fcntl.LOCK_EX):
            # Where a shared lock is granted, another process only checks whether the run is open.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            time.sleep(_LOCK_PAUSE_S)
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
