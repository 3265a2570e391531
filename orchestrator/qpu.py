"""The QPUs of a site as a stage, or a script, sees them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from qiskit.exceptions import QiskitError

from backends.api import BackendError, Target
from backends.circuits import FrozenCircuit
from backends.fidelity import circuit_fidelity
from backends.payloads import Payload
from backends.validate import check_fits
from orchestrator.broker.client.protocol import (
    BrokerClient,
    DataRefused,
    NoQpuFits,
    WalltimeTooShort,
)
from orchestrator.broker.core.choice import ChoiceRequest, QpuChoice, QpuNeeds
from orchestrator.broker.core.job_request import JobRequest, LeaseWish
from orchestrator.broker.core.scheduler import least_task_seconds
from orchestrator.broker.core.views import JobView, QpuTaskState
from orchestrator.compute.remote_call import stage_context
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.data_labels import accepted_labels, all_labels, refusal
from orchestrator.identity import CallStage
from orchestrator.names import ANY
from orchestrator.qpu_errors import naming_qpu
from orchestrator.qpu_job import QpuJob
from orchestrator.resources import Resources, resources
from orchestrator.transpile import Transpiler
from orchestrator.wording import visible

if TYPE_CHECKING:
    from orchestrator.analog import AnalogSampler
    from orchestrator.annealing import AnnealingSampler
    from orchestrator.primitives import Estimator, Sampler

__all__ = ["DEFAULT_SHOTS", "Qpu", "choose_qpu", "labels_here", "open_qpu"]

DEFAULT_SHOTS = 1024
_LONGEST_NAME = 200  # of a flow, in a request
_LONGEST_REASON = 1000
# A task that had this share of what a Slurm job gives, and was stopped, does not fit into one.
_WHOLE_ALLOCATION = 0.9
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
        default_shots: int = DEFAULT_SHOTS,
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
        from orchestrator.primitives import Sampler

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
        from orchestrator.primitives import Estimator

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

        with naming_qpu(self.name):
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
    shots: int = DEFAULT_SHOTS,
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
    with naming_qpu(settings.name):
        target = opened.broker().target(settings.name)
    return Qpu(settings.name, target, stage, identity, opened, labels)
