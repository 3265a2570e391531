"""Qiskit's primitives over a broker: code written for V2 primitives runs unchanged."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from types import MappingProxyType
from typing import Any

from qiskit.primitives import BaseEstimatorV2, BaseSamplerV2

from backends.api import PayloadRejected, Target
from backends.circuits import FrozenCircuit
from backends.payloads import (
    EstimatorPayload,
    FrozenSamplerPub,
    Payload,
    SamplerPayload,
    Values,
)
from backends.payloads.circuit_checks import check_pubs
from backends.sampling import lower
from orchestrator.broker.client.protocol import BrokerClient
from orchestrator.broker.core.job_request import JobRequest, LeaseWish
from orchestrator.compute.remote_call import stage_context
from orchestrator.identity import CallStage
from orchestrator.qpu_jobs import QpuJob, Submission
from orchestrator.resources import Resources, resources
from orchestrator.transpile import Transpiled, Transpiler

__all__ = ["Estimator", "Qpu", "Sampler", "open_qpu"]

_DEFAULT_SHOTS = 1024
# 4096 shots per term, Qiskit's own default where an expectation value is sampled.
_SAMPLED_PRECISION = 0.015625

_log = logging.getLogger(__name__)
# What the code at work here keeps, by QPU.
_leases: ContextVar[Mapping[str, LeaseWish]] = ContextVar(
    "hpcqc_leases", default=MappingProxyType({})
)


@dataclass(eq=False)
class Qpu:
    """A QPU of the site as a stage, or a script, sees it.

    target: what it accepts, as of the last look. stage: key of the stage it was lent to, if any.
    identity: what tells it from itself under other settings, empty if the stage's key does.
    """

    name: str
    target: Target
    stage: str | None
    identity: str
    _held: Resources

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
        wish = LeaseWish(id=self._held.run.id, longest_s=longest_s, idle_s=idle_s)
        before = _leases.get()
        token = _leases.set({**before, self.name: wish})
        self._held.lease_begins(self.name)
        try:
            yield
        finally:
            _leases.reset(token)
            if self._held.lease_ends(self.name):
                _let_go(self.broker, self.name, wish.id)

    def look(self) -> None:
        """Ask anew what it accepts. Raises ``QpuUnavailable``."""
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
            run=self._held.run.id,
            stage=CallStage(self.stage, self.identity).text,
            call=self._held.turn_of(self.stage, (self.name, payload.digest)),
            qpu=self.name,
            seed=seed,
            lease=_leases.get().get(self.name),
            priority=self._held.run.site.broker.priority,
            calibration=self.calibration,
            may_reuse=may_reuse,
        )

    @property
    def calibration(self) -> str:
        """Id of the calibration that circuits are transpiled for; empty if they are for none."""
        anywhere = self.target.native_gates is None or self.target.site_transpiles
        return "" if anywhere else self.target.calibration.id

    def serves(self, stage: str | None) -> bool:
        """Whether it was opened for this stage, and what it was opened with is still open.

        Args:
            stage: key of a stage; None outside stages.

        Returns:
            False after `shutdown`, and for another stage.
        """
        return self.stage == stage and self._held is resources()

    @property
    def broker(self) -> BrokerClient:
        """The broker that owns this QPU's queue."""
        return self._held.broker()

    @property
    def transpiler(self) -> Transpiler:
        """The transpiler that all stages of the run share."""
        return self._held.transpiler()


def _let_go(broker: BrokerClient, qpu: str, lease: str) -> None:
    """Release a lease; it ends by itself soon, so that this fails is no reason to stop."""
    try:
        broker.release(qpu, lease)
    except Exception as error:  # noqa: BLE001  # the loop's own error, if any, is what counts
        _log.debug("lease %s on %s was not released: %s", lease, qpu, error)


def open_qpu(name: str | None = None, stage: str | None = None) -> Qpu:
    """Open a QPU of the site.

    Args:
        name: the QPU's name; None is the run's default.
        stage: key of the stage that asks; None is the stage this code runs in, if any.

    Returns:
        The QPU, with its target as of now.

    Raises:
        ConfigError: the site has no QPU of this name.
        LedgerError: the ledger cannot be used.
        QpuUnavailable: the QPU cannot be reached.
    """
    held = resources()
    settings = held.run.site.qpu(name or held.run.default_qpu)
    context = stage_context()
    if stage is None and context is not None:
        stage = context.key
    identity = held.run.qpu_identity(settings.name)
    if context is not None and (context.key, context.qpu_identity) == (stage, identity):
        identity = ""
    target = held.broker().target(settings.name)
    return Qpu(settings.name, target, stage, identity, held)


@dataclass(slots=True)
class _Choice:
    """Which QPU a primitive is for; a named one is opened anew for every stage that uses it."""

    chosen: Qpu | str | None
    opened: Qpu | None = None

    def open(self) -> Qpu:
        if isinstance(self.chosen, Qpu):
            return self.chosen
        context, opened = stage_context(), self.opened
        key = None if context is None else context.key
        if opened is None or self._is_elsewhere(opened) or not opened.serves(key):
            opened = self.opened = open_qpu(self.chosen)
        return opened

    def _is_elsewhere(self, opened: Qpu) -> bool:
        """Whether another QPU is the default one by now."""
        return self.chosen is None and opened.name != resources().run.default_qpu


class Sampler(BaseSamplerV2):
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
        self._choice = _Choice(qpu)
        self._default_shots = default_shots
        self._seed = seed
        self._reuse = reuse

    @property
    def qpu(self) -> Qpu:
        """The QPU this primitive runs on."""
        return self._choice.open()

    @property
    def default_shots(self) -> int:
        """Shots of a PUB that states none."""
        return self._default_shots

    def run(self, pubs: Iterable[Any], *, shots: int | None = None) -> QpuJob:
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
        payload = SamplerPayload.coerce(pubs, shots=asked, seed=self._seed)
        prepare = partial(_prepare_sampler, payload)
        return QpuJob(Submission(self.qpu, self._seed, prepare, reuse=self._reuse))


class Estimator(BaseEstimatorV2):
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
        self._choice = _Choice(qpu)
        self._default_precision = default_precision
        self._seed = seed
        self._reuse = reuse

    @property
    def qpu(self) -> Qpu:
        """The QPU this primitive runs on."""
        return self._choice.open()

    @property
    def default_precision(self) -> float:
        """Precision of a PUB that states none."""
        if self._default_precision is not None:
            return self._default_precision
        exact = EstimatorPayload.kind in self.qpu.target.payload_kinds
        return 0.0 if exact else _SAMPLED_PRECISION

    def run(self, pubs: Iterable[Any], *, precision: float | None = None) -> QpuJob:
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
        payload = EstimatorPayload.coerce(pubs, precision=asked, seed=self._seed)
        qpu = self.qpu
        if EstimatorPayload.kind in qpu.target.payload_kinds:
            native = partial(_prepare_estimator, payload)
            return QpuJob(Submission(qpu, self._seed, native, reuse=self._reuse))
        sampled, recombination = lower(payload)
        prepare = partial(_prepare_sampler, sampled, numbers=recombination.sources)
        submission = Submission(qpu, self._seed, prepare, reuse=self._reuse)
        return QpuJob(submission, finish=recombination.recombine)


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
