"""Qiskit's primitives and their jobs over a broker: code for V2 primitives runs unchanged."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from qiskit.exceptions import QiskitError
from qiskit.primitives import (
    BaseEstimatorV2,
    BasePrimitiveJob,
    BaseSamplerV2,
    PrimitiveResult,
)
from qiskit.providers import JobStatus

from backends.api import BackendError, CalibrationChanged, PayloadRejected, Target
from backends.circuits import FrozenCircuit
from backends.fidelity import circuit_fidelity
from backends.payloads import (
    EstimatorPayload,
    FrozenSamplerPub,
    Payload,
    SamplerPayload,
    Values,
)
from backends.payloads.circuit_checks import check_pubs
from backends.sampling import lower
from backends.validate import check_fits
from orchestrator.broker.client.protocol import (
    AllocationEnded,
    BrokerClient,
    DataRefused,
    NoQpuFits,
    WalltimeTooShort,
)
from orchestrator.broker.core.choice import ChoiceRequest, QpuChoice, QpuNeeds
from orchestrator.broker.core.job_request import JobRequest, LeaseWish
from orchestrator.broker.core.scheduler import least_task_seconds
from orchestrator.broker.core.views import JobState, JobView, QpuTaskState
from orchestrator.compute.remote_call import stage_context, yield_worker_slot
from orchestrator.config.site import QpuSettings
from orchestrator.data_labels import accepted_labels, all_labels, refusal
from orchestrator.identity import CallStage, JobId
from orchestrator.names import ANY
from orchestrator.resources import Resources, resources
from orchestrator.transpile import Transpiled, Transpiler
from orchestrator.wording import visible

if TYPE_CHECKING:
    from orchestrator.analog import AnalogSampler
    from orchestrator.annealing import AnnealingSampler

__all__ = [
    "Estimator",
    "Primitive",
    "Qpu",
    "QpuJob",
    "Sampler",
    "choose_qpu",
    "labels_here",
    "open_qpu",
]

_ResultT = TypeVar("_ResultT")

_DEFAULT_SHOTS = 1024
_LONGEST_NAME = 200  # of a flow, in a request
_LONGEST_REASON = 1000
# 4096 shots per term, Qiskit's own default where an expectation value is sampled.
_SAMPLED_PRECISION = 0.015625
# A QPU that is calibrated anew so often while one call waits is not waited for any longer.
_MOST_TRANSPILATIONS = 10
# So many Slurm jobs in a row take the place of one that ended under a call without a completed task,
# until something must be wrong.
_MOST_ALLOCATIONS = 3
# A task that had this share of what a Slurm job gives, and was stopped, does not fit into one.
_WHOLE_ALLOCATION = 0.9
_STATUS = {
    JobState.QUEUED: JobStatus.QUEUED,
    JobState.RUNNING: JobStatus.RUNNING,
    JobState.COMPLETED: JobStatus.DONE,
    JobState.CANCELLED: JobStatus.CANCELLED,
    JobState.FAILED: JobStatus.ERROR,
    JobState.UNCERTAIN: JobStatus.ERROR,
}

_log = logging.getLogger(__name__)
# The leases that the code running here asks for, by QPU.
_leases: ContextVar[Mapping[str, LeaseWish]] = ContextVar(
    "hpcqc_leases", default=MappingProxyType({})
)


@dataclass(eq=False)
class Qpu:
    """A QPU of the site as a stage, or a script, sees it.

    target: what it accepted when it was last read. stage: key of the stage it was opened for, if
    any. identity: its name and settings, empty if the stage's key contains them. labels: of the data
    that is sent to it, beside those of the site and of the stage that sends it. in_place_of: the QPU
    of the stage, if that cannot be reached, in_place_for: why.
    """

    name: str
    target: Target
    stage: str | None
    identity: str
    _resources: Resources
    labels: tuple[str, ...] = ()
    in_place_of: str = ""
    in_place_for: str = ""

    def sampler(
        self,
        *,
        default_shots: int = _DEFAULT_SHOTS,
        seed: int | None = None,
        reuse: bool = False,
    ) -> Sampler:
        """Return a Qiskit ``SamplerV2`` on this QPU.

        Args:
            default_shots: shots of a PUB that states none.
            seed: for simulators; equal seeds give equal counts.
            reuse: take an equal job's result, if there is one, at no cost; see `Sampler`.

        Returns:
            A sampler for this QPU.
        """
        return Sampler(self, default_shots=default_shots, seed=seed, reuse=reuse)

    def estimator(
        self, *, precision: float | None = None, seed: int | None = None, reuse: bool = False
    ) -> Estimator:
        """Return a Qiskit ``EstimatorV2`` on this QPU.

        Args:
            precision: standard error of each expectation value of a PUB that states none; None
                is exact where the QPU can be.
            seed: for simulators; equal seeds give equal values.
            reuse: take an equal job's result, if there is one, at no cost; see `Sampler`.

        Returns:
            An estimator for this QPU.
        """
        return Estimator(self, default_precision=precision, seed=seed, reuse=reuse)

    def analog_sampler(
        self, *, default_shots: int = 100, seed: int | None = None, reuse: bool = False
    ) -> AnalogSampler:
        """Return a sampler of analog sequences on this QPU, which must be of neutral atoms.

        Args:
            default_shots: shots of a sequence for which ``run`` states no number.
            seed: for simulators; equal seeds give equal counts.
            reuse: take an equal job's result, if there is one, at no cost; see `Sampler`.

        Returns:
            A sampler for this QPU.
        """
        from orchestrator.analog import AnalogSampler

        return AnalogSampler(self, default_shots=default_shots, seed=seed, reuse=reuse)

    def annealing_sampler(
        self, *, default_reads: int = 100, seed: int | None = None, reuse: bool = False
    ) -> AnnealingSampler:
        """Return a sampler of binary quadratic models on this QPU, which must be an annealer.

        Args:
            default_reads: how often a model is annealed for which ``run`` states no number.
            seed: for simulators; equal seeds give equal samples.
            reuse: take an equal job's result, if there is one, at no cost; see `Sampler`.

        Returns:
            A sampler for this QPU.
        """
        from orchestrator.annealing import AnnealingSampler

        return AnnealingSampler(self, default_reads=default_reads, seed=seed, reuse=reuse)

    def run(self, payload: Payload, *, reuse: bool = False) -> QpuJob[Any]:
        """Submit a payload of any kind that the QPU takes, as it is, as one quantum job.

        Args:
            payload: such as a payload kind's package builds.
            reuse: take an equal job's result, if there is one, at no cost; see `Sampler`.

        Returns:
            The job; its ``result()`` waits and returns what the payload kind returns.

        Raises:
            PayloadRejected: the payload can never run on the QPU; nothing was submitted.
            QpuUnavailable: the QPU cannot be reached.
            BudgetExhausted: the job would cost more than the budget has left.
        """

        def checked(qpu: Qpu) -> Payload:
            check_fits(payload, qpu.target)
            return payload

        check_fits(payload, self.target)  # before anything of it is used
        return QpuJob(self, checked, seed=payload.seed, may_reuse=reuse)

    @contextmanager
    def lease(self, *, longest_s: float = 60.0, idle_s: float = 2.0) -> Iterator[None]:
        """Keep the QPU between the jobs of an iterative loop: jobs sent inside go first.

        The first job queues like any other. When it starts, the lease begins, and no other job
        starts until the lease ends. The next job then queues again, and may open another lease.
        The site's bounds apply where they are shorter, and all loops of a run share one lease of
        a QPU.

        Args:
            longest_s: the longest time the lease lasts, in seconds.
            idle_s: the lease ends after this many seconds without a running job of the loop.

        Raises:
            ValueError: a time is not above 0.
        """
        if not (0 < longest_s < inf and 0 < idle_s < inf):
            raise ValueError(
                f"lease of longest_s = {longest_s!r}, idle_s = {idle_s!r}; give seconds above 0"
            )
        wish = LeaseWish(
            id=self._resources.run.id, longest_s=float(longest_s), idle_s=float(idle_s)
        )
        before = _leases.get()
        token = _leases.set({**before, self.name: wish})
        self._resources.begin_loop(self.name)
        try:
            yield
        finally:
            _leases.reset(token)
            if self._resources.end_loop(self.name):
                _release(self.broker, self.name, wish.id)

    def refresh(self) -> None:
        """Read the target again. Raises ``QpuUnavailable``."""
        self.target = self.broker.target(self.name)

    def request(
        self, payload: Payload, *, seed: int | None = None, may_reuse: bool = False
    ) -> JobRequest:
        """Count a call of this content and return what a broker is asked for.

        The n-th payload of one content in a stage is the n-th job of that content. In a stage
        that is retried, or in a run that is continued, it is the same job as before, as long as
        the QPU's settings are the same.

        Args:
            payload: what is to be submitted.
            seed: of the job; None draws one.
            may_reuse: whether the result of an equal, completed job will do.

        Returns:
            The request, as a broker takes it.
        """
        return JobRequest(
            run=self._resources.run.id,
            stage=CallStage(self.stage, self.identity).text,
            call=self._resources.equal_calls(self.stage, (self.name, payload.digest)),
            qpu=self.name,
            seed=None if seed is None else int(seed),
            lease=_leases.get().get(self.name),
            priority=self._resources.run.site.broker.priority,
            calibration=self.calibration,
            may_reuse=may_reuse,
            slurm_job=self._resources.slurm_job(self.name),
            flow=_flow_name(self._resources.run.flow),
            coupling=self._resources.run.coupling,
            labels=all_labels(self.labels, labels_here(self._resources)),
            failover=_failover_here(self.name),
            in_place_of=self.in_place_of,
            in_place_for=visible(self.in_place_for, lines=False)[:_LONGEST_REASON],
        )

    @property
    def calibration(self) -> str:
        """Id of the calibration that circuits are transpiled for; empty if they are for none."""
        anywhere = self.target.native_gates is None or self.target.site_transpiles
        return "" if anywhere else self.target.calibration.id

    def next_slurm_job(self, ended: int) -> int | None:
        """Block until another Slurm job holds the QPU in the place of one that ended.

        Args:
            ended: id of the Slurm job under which work was stopped.

        Returns:
            The id; None if the one that ended was not submitted by hpcqc.

        Raises:
            SlurmRefused: Slurm never grants the QPU.
            SlurmUnavailable: Slurm does not answer.
        """
        return self._resources.next_slurm_job(self.name, ended)

    def check_fits_walltime(self, payload: Payload) -> None:
        """Refuse a payload of which not even the smallest task fits into a Slurm job of hpcqc's.

        Args:
            payload: what is to be submitted.

        Raises:
            WalltimeTooShort: the QPU's timing model says that a task takes longer.
        """
        access, target = self._resources.run.site.qpu(self.name).slurm, self.target
        if access is None or target.timing is None:
            return
        least_s = target.clock_scale * least_task_seconds(
            payload.shapes,
            payload.num_qubits,
            seeded=payload.seed is not None,
            max_shots=target.max_shots,
            timing=target.timing,
        )
        # The user's own job may be longer.
        if least_s <= access.usable_s or not self._resources.submits_qpu_job(self.name):
            return
        raise WalltimeTooShort(
            f"a task of this quantum job takes {least_s:.3g} s on QPU {self.name!r}, and a Slurm job "
            f"that holds the QPU gives {access.usable_s:.3g} s of its walltime to tasks; "
            f"{self._remedy}"
        )

    def check_stopped(self, view: JobView) -> None:
        """Refuse to go on with a job whose task was stopped after all that a Slurm job gives.

        Args:
            view: of a job whose Slurm job ended; hpcqc had submitted it.

        Raises:
            WalltimeTooShort: the next Slurm job would not be long enough either.
        """
        access = self._resources.run.site.qpu(self.name).slurm
        stopped = [one for one in view.tasks if one.state is QpuTaskState.CANCELLED]
        if access is None or not stopped:
            return
        last = stopped[-1]
        if last.started_at is None or last.ended_at is None or last.slurm_job != view.slurm_job:
            return
        ran_s = (last.ended_at - last.started_at).total_seconds()
        if ran_s < _WHOLE_ALLOCATION * access.usable_s:
            return
        if not self._resources.submits_qpu_job(self.name):
            return
        raise WalltimeTooShort(
            f"a task of quantum job {view.id} ran for {ran_s:.3g} s on QPU {self.name!r} and was "
            f"stopped at the end of Slurm job {view.slurm_job}, which gives {access.usable_s:.3g} s of "
            f"its walltime to tasks; {self._remedy}"
        )

    @property
    def _remedy(self) -> str:
        return f"give a longer walltime in [qpu.{self.name}.slurm], or fewer shots or circuits in a call"

    def serves(self, stage: str | None) -> bool:
        """Whether it was opened for this stage, and what it was opened with is still open.

        Args:
            stage: key of a stage; None outside stages.

        Returns:
            False after `shutdown`, and for another stage.
        """
        return self.stage == stage and self._resources is resources()

    @property
    def broker(self) -> BrokerClient:
        """The broker that owns this QPU's queue."""
        return self._resources.broker()

    @property
    def transpiler(self) -> Transpiler:
        """The transpiler that all stages of the run share."""
        return self._resources.transpiler()


def _flow_name(named: str) -> str:
    """Return the name of the flow in which this is called, as a request may have it."""
    prefect = sys.modules.get("prefect.context")  # loaded wherever a flow is running
    context = None if named or prefect is None else prefect.FlowRunContext.get()
    if context is not None and context.flow is not None:
        named = context.flow.name
    return visible(named, lines=False)[:_LONGEST_NAME]


def _release(broker: BrokerClient, qpu: str, lease: str) -> None:
    """Release a lease; if that fails, it ends by itself soon."""
    try:
        broker.release(qpu, lease)
    except Exception as error:  # noqa: BLE001  # the loop's own error, if any, is what counts
        _log.debug("lease %s on %s was not released: %s", lease, qpu, error)


def labels_here(opened: Resources) -> tuple[str, ...]:
    """Return the labels of the data of all that is sent from here: of the payer and of the stage.

    Where the stage is not known, as in a thread that it started, those of all running stages count.
    """
    context = stage_context()
    of_stage = opened.run.labels_at_work() if context is None else context.labels
    return all_labels(opened.broker().labels, of_stage)


def _failover_here(qpu: str) -> str:
    """Return the QPU that may take over jobs of another one, by the stage that sends them."""
    context = stage_context()
    return "" if context is None or context.failover == qpu else context.failover


def choose_qpu(
    needs: QpuNeeds | None = None,
    *,
    named: str | None = None,
    stage: str | None = None,
    circuits: Sequence[FrozenCircuit] = (),
    shots: int = _DEFAULT_SHOTS,
) -> QpuChoice:
    """Let the broker choose a QPU of the site.

    Args:
        needs: what the QPU must have; None for nothing in particular.
        named: a QPU that must meet the needs; None, or ``any``, for each of the site.
        stage: key of the stage that asks; None outside stages.
        circuits: of the work, where they are known: each QPU's fidelity is then that of the circuits
            as they are transpiled for it, and not that of the device.
        shots: of each circuit.

    Returns:
        The QPU's name, the reason, and all candidates with their numbers.

    Raises:
        NoQpuFits: no QPU meets the needs.
        DataRefused: none may get the data, by its labels.
    """
    opened = resources()
    run, wanted = opened.run, QpuNeeds() if needs is None else needs
    labels = all_labels(wanted.labels, labels_here(opened))
    among = run.site.qpus_for(named or ANY)
    request = ChoiceRequest(
        run=run.id,
        stage=stage,
        needs=replace(wanted, labels=labels),
        among=tuple(settings.name for settings in among),
        weights=run.site.choice,
        circuits=max(1, len(circuits)),
        shots=max(1, shots) * max(1, len(circuits)),
        fidelities=_fidelities(circuits, among, labels, opened) if circuits else {},
    )
    choice = opened.broker().choose(request)
    if choice.qpu:
        return choice
    by_labels = all(
        refusal(
            request.needs.all_labels,
            accepted_labels(one.accepts, one.jurisdictions),
            qpu=one.name,
        )
        for one in among
    )
    raise (DataRefused if by_labels else NoQpuFits)(choice.reason)


def _fidelities(
    circuits: Sequence[FrozenCircuit],
    among: Iterable[QpuSettings],
    labels: tuple[str, ...],
    opened: Resources,
) -> dict[str, float]:
    """Return the mean predicted fidelity of circuits, as transpiled for each QPU that may get them."""
    found = {}
    for settings in among:
        accepted = accepted_labels(settings.accepts, settings.jurisdictions)
        if refusal(labels, accepted, qpu=settings.name) is not None:
            continue
        try:
            target = opened.broker().target(settings.name)
            # What the site's transpiler makes of a circuit is predicted by what ours makes of it.
            target = replace(target, site_transpiles=False)
            fidelities = [
                circuit_fidelity(opened.transpiler().transpile(one, target).circuit.circuit, target)
                for one in circuits
            ]
        except (BackendError, QiskitError, ValueError) as error:
            # The choice says what keeps work from a QPU that cannot be asked.
            _log.debug("no fidelity is known of QPU %s: %s", settings.name, error)
            continue
        known = [one for one in fidelities if one is not None]
        if len(known) == len(fidelities):
            found[settings.name] = sum(known) / len(known)
    return found


def open_qpu(
    name: str | None = None, stage: str | None = None, labels: tuple[str, ...] = ()
) -> Qpu:
    """Open a QPU of the site.

    Args:
        name: the QPU's name; ``any`` lets the broker choose; None is the run's default.
        stage: key of the stage that asks; None is the stage this code runs in, if any.
        labels: of the data that will be sent to it, beside those of the stage and the site.

    Returns:
        The QPU, with its target as of now.

    Raises:
        ConfigError: the site has no QPU of this name.
        LedgerError: the ledger cannot be used.
        NoQpuFits: none can be chosen.
        QpuUnavailable: the QPU cannot be reached.
    """
    opened = resources()
    named = name or opened.run.default_qpu
    if named == ANY:
        named = choose_qpu(QpuNeeds(labels=labels), stage=stage).qpu
    settings = opened.run.site.qpu(named)
    context = stage_context()
    if stage is None and context is not None:
        stage = context.key
    identity = opened.run.qpu_identity(settings.name)
    if context is not None and (context.key, context.qpu_identity) == (stage, identity):
        identity = ""
    target = opened.broker().target(settings.name)
    return Qpu(settings.name, target, stage, identity, opened, labels)


class QpuJob(BasePrimitiveJob[_ResultT, JobState]):
    """One call of a primitive, as the broker runs it.

    If its QPU is calibrated anew before it begins, the next request for its state or result
    transpiles it again and submits it as another job. If the Slurm job ends that hpcqc submitted to
    hold the QPU, the next request for its result lets it go on under another one, as often as a
    task of it completed since.
    """

    def __init__(
        self,
        qpu: Qpu,
        prepare: Callable[[Qpu], Payload],
        finish: Callable[[Any], _ResultT] | None = None,
        **options: Any,
    ) -> None:
        """Submit what ``prepare`` transpiles for the QPU; ``finish`` converts its result."""
        self._qpu, self._prepare, self._finish, self._options = qpu, prepare, finish, options
        self._client = qpu.broker
        self._lock = threading.Lock()
        self._attempts_left = _MOST_TRANSPILATIONS
        self._allocations_left = _MOST_ALLOCATIONS
        self._completed = 0  # tasks, when the job went on last
        self._request: JobRequest | None = None
        self._digest = ""
        self._result: _ResultT | None = None
        try:
            self._job = self._submit()
        except CalibrationChanged as error:
            self._job = self._submit_again(error)
        super().__init__(self._job)

    def __repr__(self) -> str:
        """Name the job: a stage may return it in place of its result."""
        return f"<quantum job {self.job_id()}; call result() for its result>"

    @property
    def qpu(self) -> str:
        """The QPU's name."""
        return self._qpu.name

    def result(self, timeout: float | None = None) -> _ResultT:
        """Wait for the result, at most ``timeout`` seconds; may be called again.

        Raises the backend's error with its reason, or ``TimeoutError``.
        """
        if self._result is None:
            with yield_worker_slot():
                result = self._wait(timeout)
            self._result = result if self._finish is None else self._finish(result)
        return self._result

    def view(self) -> JobView:
        """Return what the ledger knows of the job: tasks, usage, times."""
        view = self._client.view(self._job)
        if view.error_type == CalibrationChanged.__name__:
            self._replace_job(view.id, CalibrationChanged(view.error))
            view = self._client.view(self._job)
        return view

    def status(self) -> JobStatus:
        """Return the state in Qiskit's words."""
        return _STATUS[self.view().state]

    def done(self) -> bool:
        """Whether the job completed."""
        return self.status() is JobStatus.DONE

    def running(self) -> bool:
        """Whether the job runs on the QPU."""
        return self.status() is JobStatus.RUNNING

    def cancelled(self) -> bool:
        """Whether the job was cancelled."""
        return self.status() is JobStatus.CANCELLED

    def in_final_state(self) -> bool:
        """Whether the job will not change any more."""
        return self.view().state.is_final

    def cancel(self) -> None:
        """Ask for the job's end; a completed one stays as it is."""
        self._client.cancel(self._job)

    def _wait(self, timeout_s: float | None) -> Any:
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            job, rest_s = self._job, None if until is None else max(0.0, until - time.monotonic())
            try:
                return self._client.result(job, rest_s)
            except CalibrationChanged as error:
                self._replace_job(job, error)
            except AllocationEnded as error:
                self._go_on(job, error)

    def _go_on(self, job: JobId, error: AllocationEnded) -> None:
        """Submit a job again under the next Slurm job that holds the QPU, or raise the error."""
        with self._lock:
            view = self._client.view(job)
            if self._job != job or view.state is not JobState.FAILED:
                return
            ended = None if self._request is None else self._request.slurm_job
            if self._request is None or ended is None:
                raise error
            completed = sum(task.state is QpuTaskState.COMPLETED for task in view.tasks)
            if completed > self._completed:
                self._completed, self._allocations_left = completed, _MOST_ALLOCATIONS
            if not self._allocations_left:
                raise error
            self._qpu.check_stopped(view)
            self._allocations_left -= 1
            slurm_job = self._qpu.next_slurm_job(ended)
            if slurm_job is None:
                raise error
            _log.warning("%s; quantum job %s goes on under Slurm job %d", error, job, slurm_job)
            self._request = replace(self._request, slurm_job=slurm_job)
            try:
                self._job = self._job_id = self._submit()
            except CalibrationChanged as newer:
                self._job = self._job_id = self._submit_again(newer)

    def _replace_job(self, job: JobId, error: CalibrationChanged) -> None:
        with self._lock:
            if self._job == job and self._client.view(job).state is JobState.FAILED:
                self._job = self._job_id = self._submit_again(error)

    def _submit_again(self, error: CalibrationChanged) -> JobId:
        while self._attempts_left:
            self._attempts_left -= 1
            self._qpu.refresh()
            try:
                return self._submit()
            except CalibrationChanged as newer:
                error = newer
        raise error

    def _submit(self) -> JobId:
        payload = self._prepare(self._qpu)
        self._qpu.check_fits_walltime(payload)
        if self._request is None or payload.digest != self._digest:
            self._request = self._qpu.request(payload, **self._options)
            self._digest = payload.digest
        else:  # the circuits suit the new calibration, too: it is the same job
            self._request = replace(self._request, calibration=self._qpu.calibration)
        return self._client.submit(self._request, payload)


class Primitive:
    """What samplers and estimators share: the QPU and the options of their jobs."""

    def __init__(self, qpu: Qpu | str | None, **options: Any) -> None:
        self._chosen, self._options = qpu, options
        self._opened: Qpu | None = None
        self._default = ""  # the run's default when it was opened
        self.choice: QpuChoice | None = None  # by which the broker chose a QPU for its circuits

    def _choose_for(self, circuits: Sequence[FrozenCircuit], shots: int) -> None:
        """Let the broker choose by the circuits, where no stage and nothing before has chosen."""
        context, default = stage_context(), resources().run.default_qpu
        asked = default if self._chosen is None else self._chosen
        if asked != ANY or context is not None or self._opened is not None or not circuits:
            return
        needs = QpuNeeds(qubits=max(1, *(one.circuit.num_qubits for one in circuits)))
        choice = choose_qpu(needs, circuits=circuits, shots=shots)
        self._opened, self._default = open_qpu(choice.qpu), default
        self.choice = choice

    @property
    def qpu(self) -> Qpu:
        """The QPU this primitive runs on."""
        if isinstance(self._chosen, Qpu):
            return self._chosen
        context, opened, default = stage_context(), self._opened, resources().run.default_qpu
        key = None if context is None else context.key
        moved = self._chosen is None and self._default != default
        if opened is None or moved or not opened.serves(key):
            opened = self._opened = open_qpu(self._chosen)
            self._default = default
        return opened


class Sampler(Primitive, BaseSamplerV2):
    """Samples circuits on a QPU of the site. Same contract as Qiskit's ``BaseSamplerV2``."""

    def __init__(
        self,
        qpu: Qpu | str | None = None,
        *,
        default_shots: int = _DEFAULT_SHOTS,
        seed: int | None = None,
        reuse: bool = False,
    ) -> None:
        """Choose a QPU; it is opened when it is used.

        Args:
            qpu: the `Qpu` of a stage, or a QPU's name; None is the run's default.
            default_shots: shots of a PUB that states none.
            seed: for simulators; equal seeds give equal counts.
            reuse: take the result of an equal job that completed before, in another run too;
                without a seed these are the very same counts.
        """
        super().__init__(qpu, seed=seed, may_reuse=reuse)
        self._default_shots = default_shots

    @property
    def default_shots(self) -> int:
        """Shots of a PUB that states none."""
        return self._default_shots

    def run(self, pubs: Iterable[Any], *, shots: int | None = None) -> QpuJob[PrimitiveResult[Any]]:
        """Submit sampler PUBs as one quantum job; return when the broker has stored it.

        Args:
            pubs: what Qiskit's ``SamplerPub.coerce`` takes: a circuit, or a tuple of a circuit,
                parameter values of shape ``(..., num_parameters)`` and shots.
            shots: shots of a PUB that states none; None is ``default_shots``.

        Returns:
            The job; its ``result()`` waits and returns Qiskit's ``PrimitiveResult``.

        Raises:
            PayloadRejected: a PUB is malformed or can never run on the QPU; nothing was submitted.
            QpuUnavailable: the QPU cannot be reached.
            BudgetExhausted: the job would cost more than the budget has left.
        """
        asked = self._default_shots if shots is None else shots
        payload = SamplerPayload.coerce(pubs, shots=asked, seed=self._options["seed"])
        self._choose_for([pub.circuit for pub in payload.pubs], asked)
        return QpuJob(self.qpu, partial(_prepare_sampler, payload), **self._options)


class Estimator(Primitive, BaseEstimatorV2):
    """Estimates observables on a QPU of the site. Same contract as Qiskit's ``BaseEstimatorV2``.

    Where the QPU returns only counts, observables are measured basis by basis, with the shots
    that the requested precision needs.
    """

    def __init__(
        self,
        qpu: Qpu | str | None = None,
        *,
        default_precision: float | None = None,
        seed: int | None = None,
        reuse: bool = False,
    ) -> None:
        """Choose a QPU; it is opened when it is used.

        Args:
            qpu: the `Qpu` of a stage, or a QPU's name; None is the run's default.
            default_precision: standard error of each expectation value of a PUB that states none;
                None is exact where the QPU can be.
            seed: for simulators; equal seeds give equal values.
            reuse: take the result of an equal job that completed before, as in `Sampler`.
        """
        super().__init__(qpu, seed=seed, may_reuse=reuse)
        self._default_precision = default_precision

    @property
    def default_precision(self) -> float:
        """Precision of a PUB that states none."""
        if self._default_precision is not None:
            return self._default_precision
        exact = EstimatorPayload.kind in self.qpu.target.payload_kinds
        return 0.0 if exact else _SAMPLED_PRECISION

    def run(
        self, pubs: Iterable[Any], *, precision: float | None = None
    ) -> QpuJob[PrimitiveResult[Any]]:
        """Submit estimator PUBs as one quantum job; return when the broker has stored it.

        Args:
            pubs: what Qiskit's ``EstimatorPub.coerce`` takes: tuples of a circuit, observables,
                parameter values of shape ``(..., num_parameters)`` and precision.
            precision: standard error of a PUB that states none; None is ``default_precision``.

        Returns:
            The job; its ``result()`` waits and returns Qiskit's ``PrimitiveResult``.

        Raises:
            PayloadRejected: as `Sampler.run`.
            QpuUnavailable: as `Sampler.run`.
            BudgetExhausted: as `Sampler.run`.
        """
        asked = self.default_precision if precision is None else precision
        payload = EstimatorPayload.coerce(pubs, precision=asked, seed=self._options["seed"])
        qpu = self.qpu
        if EstimatorPayload.kind in qpu.target.payload_kinds:
            return QpuJob(qpu, partial(_prepare_estimator, payload), **self._options)
        sampled, recombination = lower(payload)
        prepare = partial(_prepare_sampler, sampled, numbers=recombination.sources)
        return QpuJob(qpu, prepare, recombination.recombine, **self._options)


def _prepare_sampler(
    payload: SamplerPayload, qpu: Qpu, numbers: Sequence[int] | None = None
) -> SamplerPayload:
    """Transpile for a QPU. numbers: what the user calls the PUBs, where this is not their order."""
    numbers = range(len(payload.pubs)) if numbers is None else numbers
    pubs: list[FrozenSamplerPub] = []
    for number, pub in zip(numbers, payload.pubs, strict=True):
        transpiled = _transpiled(pub.circuit, qpu, number)
        values = _columns(pub.values, transpiled.columns)
        pubs.append(replace(pub, circuit=transpiled.circuit, values=values))
    prepared = SamplerPayload(pubs=tuple(pubs))
    check_pubs(prepared, qpu.target, numbers)
    return prepared


def _prepare_estimator(payload: EstimatorPayload, qpu: Qpu) -> EstimatorPayload:
    pubs = []
    for number, pub in enumerate(payload.pubs):
        transpiled = _transpiled(pub.circuit, qpu, number)
        values = _columns(pub.values, transpiled.columns)
        observables = pub.observables
        if transpiled.layout is not None:
            array = pub.observables_array
            width = transpiled.circuit.circuit.num_qubits
            observables = array.apply_layout(list(transpiled.layout), width).tolist()
        pubs.append(
            replace(pub, circuit=transpiled.circuit, values=values, observables=observables)
        )
    prepared = EstimatorPayload(pubs=tuple(pubs))
    check_pubs(prepared, qpu.target, unmeasured=True)
    return prepared


def _transpiled(circuit: FrozenCircuit, qpu: Qpu, number: int) -> Transpiled:
    try:
        return qpu.transpiler.transpile(circuit, qpu.target)
    except PayloadRejected as error:
        raise PayloadRejected(f"PUB {number}: {error}") from None


def _columns(values: Values, kept: tuple[int, ...]) -> Values:
    """Return the columns that are left; none, where all are, are copied."""
    return values if len(kept) == values.shape[-1] else values[..., kept]
