"""The thread that keeps a run's worker jobs as they are wanted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from orchestrator.compute.api import ComputeError
from orchestrator.compute.reconciliation import (
    Action,
    Cancel,
    Fleet,
    GiveUp,
    Hold,
    Observation,
    Release,
    Retire,
    Submit,
    Want,
    WorkerJob,
    reconcile,
    waiting_notice,
    waits_for_nodes,
)
from orchestrator.compute.worker_jobs import SHARED, Allocation, JobFolder
from orchestrator.identity import WorkerName
from orchestrator.slurm.errors import (
    LONGEST_REFUSAL_S,
    JobScriptError,
    SlurmRefused,
    SlurmUnavailable,
    left_behind,
)

if TYPE_CHECKING:
    from distributed import Client

    from orchestrator.identity import SlurmTag
    from orchestrator.slurm.allocation import AllocationSteps
    from orchestrator.slurm.client import Slurm
    from orchestrator.slurm.states import SlurmJob

__all__ = ["Reconciler"]

_SOONEST_S = 0.3
_LATEST_S = 10.0
# The longer nothing changes, the less often Slurm is asked.
_PATIENCE = 0.25
_CLOSE_S = 5.0  # for a look or a submission that is under way
# For Slurm, in the end. A controller that does not answer must not keep the run from ending.
_END_S = 15.0
# After this, a submission without an answer has left no job.
_DOUBT_S = 60.0
# A wait that is over so soon is not worth a word.
_SILENT_S = 5.0
# What the jobs are for that this module answers for, as their tags say.
_OURS = ("worker", "stage")


@dataclass(eq=False)
class Reconciler:
    """Compares what is wanted with what Slurm and Dask have, in a thread, and repairs it.

    on_failure: called with a pool whose functions can never run, and the error for them.
    on_notice: called with a sentence for the user, when there is something new to say.
    on_own_waiting: called when allocations of stages' own begin or cease to wait for nodes that
    shared worker jobs may hold, with whether one waits.
    """

    slurm: Slurm | AllocationSteps
    folder: JobFolder
    on_failure: Callable[[str, ComputeError], None]
    on_notice: Callable[[str], None]
    on_own_waiting: Callable[[bool], None] | None = None
    _own_waits: bool = False
    _wanted: dict[str, Want] = field(default_factory=dict)
    _allocations: dict[str, Allocation] = field(default_factory=dict)
    _fleet: Fleet = field(default_factory=Fleet)
    _client: Client | None = None
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _changed_s: float = 0.0
    _due: bool = True
    _closing: bool = False
    _notice: str = ""
    _refusal: str = ""  # why Slurm takes no further job at present
    _refused_s: dict[str, float] = field(default_factory=dict)  # since when, by pool
    _waiting_s: float | None = None
    _doubtful: dict[str, tuple[str, int, float]] = field(default_factory=dict)
    _thread: threading.Thread | None = None
    _adopted: bool = False
    _ended: bool = False  # Slurm was told to cancel all jobs
    _unwanted: set[int] = field(default_factory=set)  # jobs that Slurm is to cancel, and has not
    _spare: dict[str, int] = field(default_factory=dict)  # numbers that no job has got, by purpose

    def start(self) -> None:
        """Start the thread; a second call does nothing."""
        with self._changed:
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(
                    target=self._serve, name="hpcqc-slurm-workers", daemon=True
                )
                self._thread.start()

    def attach(self, client: Client) -> None:
        """Take the client of the scheduler that the workers join."""
        # Workers that come and go are a reason to look at once.
        client.subscribe_topic("all", self._on_dask_event)
        with self._changed:
            self._client = client
        self.wake()

    def want(self, allocation: Allocation, jobs: int, *, held: bool = False) -> None:
        """Say how many jobs of an allocation there should be; returns at once."""
        with self._changed:
            self._allocations[allocation.pool] = allocation
            self._wanted[allocation.pool] = Want(jobs=jobs, held=held)
        self.wake()

    def drop(self, pool: str) -> None:
        """Cancel a pool's jobs at once, whatever they do; returns at once."""
        with self._changed:
            self._wanted.pop(pool, None)
            self._allocations.pop(pool, None)
        self.wake()

    def wake(self) -> None:
        """Look now."""
        with self._changed:
            self._due = True
            self._changed_s = time.monotonic()
            self._changed.notify_all()

    def close(self) -> None:
        """Cancel every worker job of the run, and end the thread; closing twice does nothing.

        If Slurm does not answer for 15 s, the user is told which jobs are left.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        if thread is None:
            return
        self.slurm.hurry(_END_S)
        thread.join(_CLOSE_S)
        fault = self._cancel_all()
        if thread.is_alive():  # a submission hangs, and its job may come yet
            thread.join(_END_S)
            fault = self._cancel_all()
        if fault is None:
            self._ended = True
        elif self.left() or self._doubtful or thread.is_alive():
            self.on_notice(left_behind(self.folder.run, self.left(), fault))

    def left(self) -> frozenset[int]:
        """Return the jobs that Slurm has not been told to cancel."""
        known = {job.id for job in self._fleet.jobs} | self._unwanted
        return frozenset() if self._ended else frozenset(known)

    def jobs(self) -> tuple[WorkerJob, ...]:
        """Return the worker jobs that the run has now."""
        return self._fleet.jobs

    def _serve(self) -> None:
        while self._wait():
            try:
                self._step()
            except SlurmUnavailable as error:
                if error.retryable:
                    self._say(f"Slurm does not answer ({error}); hpcqc keeps asking")
                else:
                    self._fail_all(f"Slurm cannot be used: {error}")
            except Exception as error:  # noqa: BLE001  # functions would wait for ever
                self._fail_all(f"control of the worker jobs failed: {error!r}")

    def _wait(self) -> bool:
        """Wait until it is time to look; False when closing."""
        with self._changed:
            if not self._due:
                quiet_s = (time.monotonic() - self._changed_s) * _PATIENCE
                self._changed.wait(min(_LATEST_S, max(_SOONEST_S, quiet_s)))
            self._due = False
            return not self._closing

    def _step(self) -> None:
        self._refusal = ""
        if not self._adopted:
            self._adopt()
            self._adopted = True
        if not self._settle_doubtful():
            return
        self._cancel_dropped()
        seen = self._observe()
        with self._changed:
            wanted = dict(self._wanted)
        before = self._fleet
        self._fleet, actions = reconcile(before, wanted, seen)
        self._execute(actions)
        done = bool(actions) and not self._refusal
        if done or [job.id for job in before.jobs] != [job.id for job in self._fleet.jobs]:
            self._changed_s = time.monotonic()
        if seen.slurm is not None:
            self._report_own_waiting(seen)
            notice = waiting_notice(self._fleet, seen)
            since_s = seen.now_s if self._waiting_s is None else self._waiting_s
            self._waiting_s = since_s if notice else None
            self._say(self._refusal or (notice if seen.now_s - since_s >= _SILENT_S else ""))

    def _report_own_waiting(self, seen: Observation) -> None:
        with self._changed:
            known = dict(self._allocations)
        shared = known.get(SHARED)
        rivals = {
            pool
            for pool, one in known.items()
            if pool != SHARED and shared is not None and one.may_take_nodes_of(shared)
        }
        waits = waits_for_nodes(self._fleet, seen, rivals)
        if waits != self._own_waits and self.on_own_waiting is not None:
            self._own_waits = waits
            self.on_own_waiting(waits)

    def _cancel_dropped(self) -> None:
        """Cancel jobs of dropped pools before Slurm is asked anything: their nodes do nothing now."""
        with self._changed:
            wanted = set(self._wanted)
        dropped = [job.id for job in self._fleet.jobs if job.pool not in wanted]
        if dropped:
            self._fleet = replace(
                self._fleet, jobs=tuple(job for job in self._fleet.jobs if job.pool in wanted)
            )
            self._unwanted.update(dropped)
            self._cancel_unwanted()

    def _observe(self) -> Observation:
        workers, busy = self._occupation()
        listed: Mapping[int, SlurmJob] | None = {}
        if self._fleet.jobs:
            try:
                listed = self.slurm.jobs([job.id for job in self._fleet.jobs])
            except SlurmUnavailable as error:
                self._say(f"Slurm does not answer ({error}); hpcqc keeps asking")
                listed = None
        return Observation(now_s=time.monotonic(), slurm=listed, workers=workers, busy=busy)

    def _occupation(self) -> tuple[dict[int, int], frozenset[int]]:
        """Return the number of workers of each job in Dask, and the jobs that execute something."""
        from orchestrator.compute.nodes import occupation

        client = self._client
        if client is None:
            return {}, frozenset()
        found: Mapping[str, bool] = client.run_on_scheduler(occupation)
        workers: dict[int, int] = {}
        busy: set[int] = set()
        for name, works in found.items():
            job = WorkerName.parse(name).job
            workers[job] = workers.get(job, 0) + 1
            busy |= {job} if works else set()
        return workers, frozenset(busy)

    def _execute(self, actions: Sequence[Action]) -> None:
        """Do what Slurm can fail at last, so that nothing else is forgotten when it does."""
        for action in actions:
            match action:
                case Cancel():
                    self._unwanted.add(action.job)
                case GiveUp():
                    self._give_up(action)
        for action in actions:
            if isinstance(action, Retire):
                self._retire(action.job)
        self._hold([action.job for action in actions if isinstance(action, Hold)], held=True)
        self._hold([action.job for action in actions if isinstance(action, Release)], held=False)
        self._cancel_unwanted()
        for action in actions:
            if isinstance(action, Submit):
                self._submit(action)

    def _cancel_unwanted(self) -> None:
        if self._unwanted:
            self.slurm.cancel(sorted(self._unwanted))
            self._unwanted.clear()

    def _hold(self, jobs: Sequence[int], *, held: bool) -> None:
        """Hold or release jobs; those that Slurm did not take it for remain as they were."""
        if not jobs:
            return
        try:
            (self.slurm.hold if held else self.slurm.release)(jobs)
        except SlurmUnavailable:
            self._fleet = replace(
                self._fleet,
                jobs=tuple(
                    replace(job, held=not held) if job.id in jobs else job
                    for job in self._fleet.jobs
                ),
            )
            raise

    def _submit(self, action: Submit) -> None:
        with self._changed:
            wanted = self._allocations.get(action.pool)
            if wanted is None or action.pool not in self._wanted or self._closing or self._refusal:
                return
        number = self._spare.pop(wanted.purpose, None)
        if number is None:
            number = self.folder.next_number(wanted.purpose)
        try:
            self.folder.remember(wanted, number)
            script = self.folder.script(wanted, number, held=action.held)
            job = self.slurm.submit(script)
        except (SlurmRefused, JobScriptError) as error:
            self._spare[wanted.purpose] = number
            if isinstance(error, SlurmRefused) and error.passes:
                self._refusal = f"{error}; hpcqc tries again"
                now_s = time.monotonic()
                since_s = self._refused_s.setdefault(action.pool, now_s)
                if now_s - since_s < LONGEST_REFUSAL_S:
                    return
            self._refused_s.pop(action.pool, None)
            self._fail(action.pool, ComputeError(f"a worker job cannot be submitted: {error}"))
            return
        except SlurmUnavailable as error:
            if error.submitted:
                self._doubtful[script.tag] = action.pool, number, time.monotonic()
            else:
                self._spare[wanted.purpose] = number
            raise
        self._refused_s.pop(action.pool, None)
        # Known first: a job whose record cannot be written is to be cancelled in the end, too.
        self._add(
            WorkerJob(
                id=job, number=number, pool=action.pool, at_s=time.monotonic(), held=action.held
            )
        )
        self.folder.remember(wanted, number, job)

    def _settle_doubtful(self) -> bool:
        """Find jobs whose submission had no answer; False while it is not known of some."""
        for tag, (pool, number, at_s) in tuple(self._doubtful.items()):
            found = self.slurm.find(tag)
            if found is not None:
                self._add(
                    WorkerJob(id=found.id, number=number, pool=pool, at_s=at_s, held=found.held)
                )
            if found is not None or time.monotonic() - at_s > _DOUBT_S:
                del self._doubtful[tag]
        return not self._doubtful

    def _add(self, job: WorkerJob) -> None:
        self._fleet = replace(self._fleet, jobs=(*self._fleet.jobs, job))

    def _retire(self, job: int) -> None:
        from orchestrator.compute.nodes import retire

        if self._client is not None:
            self._client.run_on_scheduler(retire, job=job)

    def _give_up(self, action: GiveUp) -> None:
        purpose = "worker" if action.pool == "shared" else "stage"
        tail = self.folder.tail(purpose, action.job.number)
        said = f"; the end of its output:\n{tail}" if tail else ""
        with suppress(SlurmUnavailable):  # it may know the job no longer
            ending = self.slurm.details(action.job.id).ending
            said = f" ({ending}){said}" if ending else said
        what = (
            "its workers joined, and ended soon after"
            if action.job.joined_s is not None
            else "its workers never joined the run"
        )
        self._fail(
            action.pool,
            ComputeError(
                f"worker jobs fail again and again: job {action.job.id} is {action.reason}, and "
                f"{what}{said}"
            ),
        )

    def _fail(self, pool: str, error: ComputeError) -> None:
        with self._changed:
            self._wanted.pop(pool, None)
        self.on_failure(pool, error)

    def _fail_all(self, message: str) -> None:
        for pool in tuple(self._wanted):
            self._fail(pool, ComputeError(message))

    def _adopt(self) -> None:
        """Take over what an earlier attempt of the run left in the queue; cancel the rest."""
        wanted = self._allocations.get("shared")
        adopted, useless = [], []
        for job, tag in self._queued():
            if tag.purpose == "worker" and wanted and self.folder.is_of(wanted, tag.number):
                adopted.append(
                    WorkerJob(id=job.id, number=tag.number, pool="shared", at_s=0.0, held=job.held)
                )
            else:
                useless.append(job.id)
        self._unwanted.update(useless)
        for one in adopted:
            self._add(one)

    def _cancel_all(self) -> SlurmUnavailable | SlurmRefused | None:
        """Cancel what the queue has, and what is known. Return why that is not certain."""
        left = {job.id for job in self._fleet.jobs} | self._unwanted
        fault: SlurmUnavailable | SlurmRefused | None = None
        try:
            left |= {job.id for job, _ in self._queued()}
        except (SlurmUnavailable, SlurmRefused) as error:
            fault = error
        try:
            if left:
                self.slurm.cancel(sorted(left))
        except (SlurmUnavailable, SlurmRefused) as error:
            fault = error
        return fault

    def _queued(self) -> Iterator[tuple[SlurmJob, SlurmTag]]:
        """Yield the worker jobs of the run that Slurm has and that are not over."""
        owner = self.folder.owner
        for job in self.slurm.jobs().values():
            tag = job.tag
            if tag is None or job.state.is_over:
                continue
            if owner.has(tag) and tag.purpose in _OURS:
                yield job, tag

    def _say(self, notice: str) -> None:
        if notice != self._notice:
            self._notice = notice
            if notice:
                self.on_notice(notice)

    def _on_dask_event(self, event: tuple[Any, Any]) -> None:
        message = event[1]
        action = message.get("action") if isinstance(message, Mapping) else None
        if action in ("add-worker", "remove-worker"):
            self.wake()
