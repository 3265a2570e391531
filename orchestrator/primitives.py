"""Qiskit's primitives over a broker: code for V2 primitives runs unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from qiskit.primitives import (
    BaseEstimatorV2,
    BaseSamplerV2,
    PrimitiveResult,
)

from backends.api import PayloadRejected
from backends.circuits import FrozenCircuit
from backends.payloads import (
    EstimatorPayload,
    FrozenSamplerPub,
    SamplerPayload,
    Values,
)
from backends.payloads.circuit_checks import check_pubs
from backends.sampling import lower
from orchestrator.broker.core.choice import QpuChoice, QpuNeeds
from orchestrator.compute.remote_call import stage_context
from orchestrator.names import ANY
from orchestrator.qpu import DEFAULT_SHOTS, Qpu, choose_qpu, open_qpu
from orchestrator.qpu_job import QpuJob
from orchestrator.resources import resources
from orchestrator.transpile import Transpiled

__all__ = ["Estimator", "Primitive", "Sampler"]

# 4096 shots per term, Qiskit's own default where an expectation value is sampled.
_SAMPLED_PRECISION = 0.015625


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
        default_shots: int = DEFAULT_SHOTS,
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
    written = [pub.circuit.circuit for pub in payload.pubs]
    check_pubs(prepared, qpu.target, numbers, written=written)
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
