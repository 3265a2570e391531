"""What this process has open for its run: the broker, the workers, the transpiler."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from backends.api import TaskCancelled
from orchestrator import runs
from orchestrator.compute.api import ComputeRun
from orchestrator.compute.kinds import open_compute, settings_in_force
from orchestrator.compute.remote_call import Execution, execution
from orchestrator.compute.slurm import SlurmDask
from orchestrator.config.backend_environments import backend_environment
from orchestrator.config.environment import slurm_account
from orchestrator.config.private import close_to_others
from orchestrator.config.secrets import resolve_secrets
from orchestrator.couplings.placement import (
    Coupled,
    StagePlacement,
    Uncoupled,
    WorkerBounds,
    at_first,
)
from orchestrator.identity import Occurrences, Scope, lock_file_name
from orchestrator.names import ANY
from orchestrator.runs import Run
from orchestrator.slurm.client import Slurm
from orchestrator.slurm.errors import SlurmUnavailable
from orchestrator.slurm.options import worker_options
from orchestrator.slurm.qpu_grants import SlurmAllocations
from orchestrator.slurm.qpu_jobs import QpuJobs, access_resources

if TYPE_CHECKING:
    from backends.api import Backend
    from orchestrator.broker.client.protocol import BrokerClient
    from orchestrator.compute.api import Compute, Demand
    from orchestrator.config.site import Site
    from orchestrator.transpile import Transpiler

__all__ = [
    "UNITS_TOPIC",
    "BudgetOutOfReach",
    "Resources",
    "left_slurm_jobs",
    "open_backend",
    "opened_broker",
    "resources",
    "shutdown",
    "slurm_allocations",
]


class BudgetOutOfReach(ValueError):
    """A run with a budget would use a QPU where the budget is not kept."""


_log = logging.getLogger(__name__)
# Dask topic on which workers report the progress of a fan-out to the flow's process.
UNITS_TOPIC = "hpcqc-units"
_LOOK_EVERY_S = 0.2
# How long Slurm may take to end the jobs that hold QPUs, also after it has taken long for others.
_CLOSE_S, _LEAST_CLOSE_S = 15.0, 3.0


@dataclass(eq=False)
class Resources:
    """Broker, workers and transpiler of one run, each made when it is first needed."""

    run: Run
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _broker: BrokerClient | None = None
    _limited: bool = False
    _computes: dict[str, Compute] = field(default_factory=dict)
    _transpiler: Transpiler | None = None
    _placement: StagePlacement | None = None
    _qpu_jobs: QpuJobs | None = None
    _ending: list[SlurmDask | QpuJobs] = field(default_factory=list)  # with jobs to cancel
    _loops: dict[str, int] = field(default_factory=dict)
    _calls: dict[str | None, Occurrences] = field(default_factory=dict)

    def broker(self) -> BrokerClient:
        """Return the run's broker: the service its site names, else one in this process.

        Its first use raises ``LedgerError``, ``RunBusy``, ``BrokerUnreachable``, ``BrokerRefused``.
        """
        with self._lock:
            if self._broker is None:
                self._refuse_if_closing()
                url = self.run.site.broker.url
                self._broker = self._embedded() if url is None else self._remote(url)
            return self._broker

    def is_limited(self) -> bool:
        """Whether the run has a budget that only a broker in this process enforces."""
        # The ledger has budgets of earlier attempts. Opening the broker raises as `broker` does.
        with self._lock:
            site = self.run.site
            if self._broker is None and site.broker.url is None:
                # The file that a broker locks stays, so a run that has none has no budget either.
                lock = site.state_dir / "runs" / lock_file_name(self.run.scope)
                if self.run.budgets or lock.exists():
                    self.broker()
            return self._limited

    def compute(self, name: str | None = None) -> Compute:
        """Return workers of the site, its default ones for None; they start when used."""
        named = name or self.run.site.default_compute
        with self._lock:
            if named not in self._computes:
                self._refuse_if_closing()
                settings = settings_in_force(self.run.site, name)
                compute = open_compute(settings, self._compute_run())
                self._computes[named] = compute
                if self.run.coupling and isinstance(compute, SlurmDask):
                    self._couple(named, compute)
            return self._computes[named]

    def start_compute(self, name: str | None, demand: Demand) -> None:
        """Begin to start what a stage needs of a compute: workers, where it shares them.

        Args:
            name: As for `compute`.
            demand: What the stage asks for.
        """
        compute = self.compute(name)
        own = isinstance(compute, SlurmDask) and not compute.shares(demand)
        if isinstance(compute, SlurmDask) and own and self.run.coupling != "exclusive":
            compute.start_scheduler()
        else:
            compute.start()

    def placement(self) -> StagePlacement:
        """Return what the run's coupling does where stages begin and end."""
        with self._lock:
            if self._placement is None:
                run = self.run
                self._placement = Uncoupled(self._hold_qpu)
                if run.coupling:
                    self._placement = Coupled(
                        run.coupling,
                        pool=self._pool,
                        hold_qpu=self._hold_with_nodes
                        if run.coupling == "exclusive"
                        else self._hold_qpu,
                        default=(run.site.default_compute, run.default_qpu),
                        qpu_free_in_s=run.gate.qpu_free_in_s,
                        quantum_after_s=run.gate.quantum_after_s,
                    )
            return self._placement

    def _pool(self, name: str) -> tuple[SlurmDask, WorkerBounds] | None:
        """Return the workers of a compute whose number a coupling can change, with its bounds."""
        compute = self.compute(name)
        if not isinstance(compute, SlurmDask):
            return None
        return compute, self._bounds(name)

    def _bounds(self, name: str) -> WorkerBounds:
        options = worker_options(settings_in_force(self.run.site, name))
        return WorkerBounds(
            nodes_min=options.nodes_min,
            nodes_max=options.nodes_max,
            stages_per_node=options.process_count,
        )

    def _hold_qpu(self, qpu: str) -> AbstractContextManager[object]:
        """Return a context in which the run holds a QPU; entering it blocks until it does."""
        return self.qpu_jobs().hold(self.run.site.qpu(qpu))

    @contextmanager
    def _hold_with_nodes(self, qpu: str) -> Iterator[object]:
        """Use a QPU that the job of an exclusive run holds, or hold another one."""
        self._use_nodes_job(qpu)
        with self._hold_qpu(qpu) as held:
            yield held

    def _use_nodes_job(self, qpu: str, ended: int | None = None) -> None:
        """Let quantum jobs go under the job of an exclusive run, if it holds the QPU; wait for it.

        ended: a job that no longer holds the QPU, in whose place there will be another one.
        """
        compute = self.compute()
        is_part = qpu == self.run.default_qpu and self.run.site.qpu(qpu).slurm is not None
        if is_part and isinstance(compute, SlurmDask) and not compute.in_allocation:
            compute.start()
            if ended is not None:
                self.qpu_jobs().discard(ended)
            while (job := compute.running_job()) in (None, ended):
                self._refuse_if_closing()
                fault = compute.fault()
                if fault is not None:
                    raise fault
                time.sleep(_LOOK_EVERY_S)
            assert job is not None
            self.qpu_jobs().use(qpu, job)

    def _couple(self, name: str, compute: SlurmDask) -> None:
        """Let workers that start before the first stage start as the coupling has them."""
        is_gated = self.run.gate.qpu_free_in_s is not None
        wanted = at_first(self.run.coupling, self._bounds(name), gated=is_gated)
        if wanted.together:
            compute.want_together(*self._together())
        if wanted.separate:
            compute.separate_stages()
        compute.want(wanted.workers, held=wanted.held)

    def _together(self) -> list[Any]:
        """Return what a job with all nodes asks for besides: the QPU, if it is known already."""
        if self.run.default_qpu == ANY:
            return []
        qpu = self.run.site.qpu(self.run.default_qpu)
        return [access_resources(qpu)] if qpu.slurm is not None else []

    def qpu_jobs(self) -> QpuJobs:
        """Return the Slurm jobs that hold QPUs for the run."""
        with self._lock:
            if self._qpu_jobs is None:
                self._refuse_if_closing()
                self._qpu_jobs = QpuJobs(self.run.id, self._slurm_folder, on_notice=_log.warning)
            return self._qpu_jobs

    def slurm_job(self, qpu: str) -> int | None:
        """Return the Slurm job under which quantum jobs go to a QPU; None if the broker shares it.

        Blocks until Slurm grants the QPU. Raises as `QpuJobs.hold` does, and in an exclusive run
        ``ComputeError`` if its job can never start.
        """
        settings = self.run.site.qpu(qpu)
        if settings.slurm is None:
            return None
        if self.run.coupling == "exclusive":  # it may be another one since the last quantum stage
            self._use_nodes_job(qpu)
        return self.qpu_jobs().current(settings)

    def submits_qpu_job(self, qpu: str) -> bool:
        """Whether hpcqc submits the Slurm jobs that hold a QPU; False if Slurm does not say."""
        settings = self.run.site.qpu(qpu)
        if settings.slurm is None or self.run.coupling == "exclusive":
            return False
        try:
            return not self.qpu_jobs().is_inside(settings)
        except SlurmUnavailable:
            return False

    def next_slurm_job(self, qpu: str, ended: int) -> int | None:
        """Return the Slurm job under which quantum jobs go on whose Slurm job has ended.

        Blocks, and raises, as `slurm_job` does. None if hpcqc did not submit the one that ended.
        """
        settings = self.run.site.qpu(qpu)
        if settings.slurm is None:
            return None
        if self.run.coupling == "exclusive":
            self._use_nodes_job(qpu, ended)
        return self.qpu_jobs().replacement(settings, ended)

    def begin_stage(self, stage: str) -> None:
        """Count this stage's quantum calls from 0: it is executed, perhaps once more."""
        with self._lock:
            self._calls[stage] = Occurrences()

    def equal_calls(self, stage: str | None, content: Hashable) -> int:
        """Count a call; return how many of this content the stage, or the run, made before."""
        with self._lock:
            return self._calls.setdefault(stage, Occurrences()).next(content)

    def begin_loop(self, qpu: str) -> None:
        """Count one more loop with a lease of the QPU."""
        with self._lock:
            self._loops[qpu] = self._loops.get(qpu, 0) + 1

    def end_loop(self, qpu: str) -> bool:
        """Count one loop less; return whether it was the last."""
        with self._lock:
            self._loops[qpu] -= 1
            return not self._loops[qpu]

    def transpiler(self) -> Transpiler:
        """Return the transpiler, with its cache, that all stages share."""
        from orchestrator.transpile import Transpiler

        with self._lock:
            if self._transpiler is None:
                self._transpiler = Transpiler()
            return self._transpiler

    def close(self, resuming_s: float | None = None) -> None:
        """Cancel open quantum jobs, end the workers and every process of ours.

        resuming_s: as `BrokerClient.close` has it.
        """
        with self._lock:
            broker, self._broker = self._broker, None
        if broker is not None:
            broker.close(resuming_s=resuming_s)
        self.close_computes()

    def close_computes(self) -> None:
        """End the workers alone; open quantum jobs go on where they run."""
        with self._lock:
            computes, self._computes = self._computes, {}
            qpu_jobs, self._qpu_jobs = self._qpu_jobs, None
            placement = self._placement
            self._ending += [one for one in computes.values() if isinstance(one, SlurmDask)]
            self._ending += [qpu_jobs] if qpu_jobs is not None else []
        if placement is not None:
            placement.close()
        began_s = time.monotonic()
        for compute in computes.values():
            compute.close()
        if qpu_jobs is not None:  # what a silent Slurm has taken already is not waited for again
            qpu_jobs.close(max(_LEAST_CLOSE_S, _CLOSE_S - (time.monotonic() - began_s)))

    def left_slurm_jobs(self) -> frozenset[int]:
        """Return the Slurm jobs of the run that are left, also while `close` is at work."""
        # Without the lock: a thread that hangs may have it.
        known = [*self._ending, *self._computes.values(), self._qpu_jobs]
        found = [one.left_jobs() for one in known if isinstance(one, SlurmDask | QpuJobs)]
        return frozenset[int]().union(*found)

    def _refuse_if_closing(self) -> None:
        if self.run.closing:
            raise TaskCancelled(f"run {self.run.id} is being ended; nothing further is started")

    def _embedded(self) -> BrokerClient:
        from orchestrator.broker.runtime.embedded import EmbeddedBroker

        broker = EmbeddedBroker(
            run=self.run.scope,
            state_dir=self.run.site.state_dir,
            open_backend=partial(open_backend, self.run.site),
            qpus=self.run.site.qpus,
            allocations=slurm_allocations(self.run.site),
            labels=self.run.site.labels_without_service(slurm_account()),
        ).open()
        for unit, amount in self.run.budgets.items():
            broker.limit(unit, amount)
        self._limited = broker.is_limited()
        return broker

    def _remote(self, url: str) -> BrokerClient:
        from orchestrator.broker.client.http import RemoteBroker

        settings = self.run.site.broker
        token = resolve_secrets(settings.token)
        broker = RemoteBroker(
            url,
            token=token,
            project=settings.project,
            labels=self.run.site.labels_by_project,
            link=self.run.site.link_of(url),
        ).open()
        for unit, amount in self.run.budgets.items():
            broker.limit_run(self.run.id, unit, amount)
        return broker

    def _compute_run(self) -> ComputeRun:
        return ComputeRun(
            id=self.run.id,
            folder=self._slurm_folder,
            on_connect=self._listen,
            on_notice=_log.warning,
        )

    @property
    def _slurm_folder(self) -> Path:
        return self.run.site.state_dir / "slurm" / self.run.id

    def _listen(self, client: Any) -> None:
        def note(event: tuple[Any, dict[str, Any]]) -> None:
            message = event[1]
            self.run.update(message["key"], units=(message["done"], message["total"]))

        client.subscribe_topic(UNITS_TOPIC, note)


def slurm_allocations(site: Site) -> SlurmAllocations | None:
    """Return what a broker of the site asks Slurm through; None where Slurm grants no QPU."""
    accesses = {name: qpu.slurm for name, qpu in site.qpus.items() if qpu.slurm is not None}
    # The broker asks again at short intervals, so a query that fails need not be repeated.
    return SlurmAllocations(Slurm(timeout_s=20.0, patience_s=0.0), accesses) if accesses else None


def _folder_name(qpu: str) -> str:
    """Return a QPU's name as that of one folder.

    >>> _folder_name("vlq"), _folder_name("../../lab"), _folder_name("..")
    ('vlq', '..%2F..%2Flab', '%2E%2E')
    """
    name = qpu.replace("%", "%25").replace("/", "%2F")
    return name.replace(".", "%2E") if name in (".", "..") else name


def open_backend(site: Site, qpu: str) -> Backend:
    """Open the backend of a QPU of the site, with its secrets."""
    from backends import registry

    settings = site.qpu(qpu)
    options = resolve_secrets(settings.options)
    return registry.create(
        settings.backend,
        options,
        state_dir=site.state_dir / "qpus" / _folder_name(qpu),
        environment=backend_environment(settings),
    )


_lock = threading.Lock()
_resources: Resources | None = None
_ended: Resources | None = None  # by the last `shutdown`
_on_worker: WeakKeyDictionary[Execution, Resources] = WeakKeyDictionary()


def resources() -> Resources:
    """Return what is open for the active run; on a Dask worker, for the function at work there."""
    global _resources
    here = execution()
    if here is not None:
        return _resources_of(here)
    with _lock:
        run = runs.current_run()
        if _resources is None or _resources.run is not run:
            if _resources is None:
                atexit.register(_close_computes)
            else:
                _resources.close()
            close_to_others(run.site.state_dir)
            _resources = Resources(run)
        return _resources


def opened_broker() -> BrokerClient | None:
    """Return the broker that this process has open for its run, None if it has none."""
    with _lock:
        return None if _resources is None else _resources._broker  # noqa: SLF001


def left_slurm_jobs() -> frozenset[int]:
    """Return the Slurm jobs that the last `shutdown` has left, as Slurm does not answer."""
    return frozenset() if _ended is None else _ended.left_slurm_jobs()


def shutdown(*, resuming_s: float | None = None) -> None:
    """Cancel open quantum jobs and end all processes that this process started for its run.

    In a script or a notebook, the next call begins another run, with the site file as it is then.

    Args:
        resuming_s: The run goes on in another process, such as the next job of its driver: jobs at
            a broker service stay there, and a broker in this process lets tasks that are on a QPU
            go on for so many seconds before it cancels them. None cancels all jobs at once.
    """
    global _resources, _ended
    with _lock:
        opened, _resources = _resources, None
        _ended = opened
    if opened is not None:
        opened.close(resuming_s)
    runs.end_own()


def _resources_of(here: Execution) -> Resources:
    """Return an execution's resources, which end with it, so that others find its scope free."""
    with _lock:
        if here not in _on_worker:
            context = here.context
            assert context.site is not None, "functions of a stage have its site"
            site = context.site()
            scope = str(Scope(context.run, context.key))
            if context.limited and site.broker.url is None:
                raise BudgetOutOfReach(
                    "this run has a budget, which only one broker can keep, and a function on a "
                    "worker would open its own; call the QPU in a @quantum stage, let the site "
                    "have a broker service (hpcqc broker serve), or take the budget away with "
                    "--budget 'none UNIT'"
                )
            run = Run(id=context.run, site=site, qpu=context.qpu, scope=scope)
            opened = _on_worker[here] = Resources(run)
            here.ending.callback(_end, opened)
        return _on_worker[here]


def _end(opened: Resources) -> None:
    opened.run.closing = True  # a primitive in a module's variable would open it again
    opened.close()


def _close_computes() -> None:
    """End the workers at exit; everything else ends by itself, and running tasks are kept."""
    if _resources is not None:
        _resources.close_computes()
