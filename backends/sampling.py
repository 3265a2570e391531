"""Estimator PUBs as sampler PUBs and back, for QPUs that return counts only (pure)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import ClassicalRegister, QuantumCircuit
from qiskit.primitives import BitArray, DataBin, PrimitiveResult, PubResult
from qiskit.primitives.containers.observables_array import ObservablesArray

from backends.canonical import free_name
from backends.circuits import FrozenCircuit
from backends.errors import PayloadRejected
from backends.paulis import MeasuredBasis, measured_bases
from backends.payloads import (
    MOST_SHOTS,
    EstimatorPayload,
    FrozenEstimatorPub,
    FrozenSamplerPub,
    SamplerPayload,
)
from backends.payloads.circuit_checks import check_unmeasured

__all__ = ["Recombination", "lower"]

_REGISTER = "basis"
_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """One sampler PUB: its index, its points of the estimator PUB, and the basis measured."""

    pub: int
    points: NDArray[np.int64]
    basis: MeasuredBasis


@dataclass(frozen=True, slots=True, kw_only=True)
class _Estimate:
    """How an estimator PUB's values follow from readings.

    points, sums: point and distinct observable per element. constants: the identity's part of each.
    """

    points: NDArray[np.int64]
    sums: NDArray[np.int64]
    constants: _Floats
    readings: tuple[_Reading, ...]
    precision: float
    shots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recombination:
    """Turns the result of a lowered payload into the estimator's; sources: PUB each is from."""

    estimates: tuple[_Estimate, ...]
    sources: tuple[int, ...]

    def recombine(self, result: PrimitiveResult[Any]) -> PrimitiveResult[Any]:
        """Return values, and standard errors from the sample variance of each basis's sum."""
        pubs = [_combined(estimate, result) for estimate in self.estimates]
        return PrimitiveResult(pubs, metadata={"version": 2})


def lower(payload: EstimatorPayload) -> tuple[SamplerPayload, Recombination]:
    """Write estimator PUBs as sampler PUBs, one for each basis that a PUB's terms need.

    Terms that agree qubit by qubit are measured together; the identity is not measured. If nothing
    else is asked, the payload is one unread shot of one qubit. Rotations are ordinary gates:
    transpile afterwards.

    Shots of basis g: n_g = ceil(r_g · Σ_h r_h / precision²), where r_g is half the range of
    the weighted sum of its terms. A variable of half range r has variance ≤ r² (Popoviciu
    1935), so the variance of the value is at most Σ_g r_g²/n_g ≤ precision². Sharing shots by r_g
    makes their number least for this bound (Rubin, Babbush, McClean 2018, New J. Phys. 20 053020,
    eq. 18, with variances bounded). One Pauli string takes 1/precision².

    Raises `PayloadRejected` for precision 0, too many shots, and a circuit that measures.
    """
    sampler_pubs: list[FrozenSamplerPub] = []
    estimates = []
    sources: list[int] = []
    for index, pub in enumerate(payload.pubs):
        try:
            check_unmeasured(pub.circuit.circuit)
            estimate, lowered = _lowered(pub, index, first=len(sampler_pubs))
        except PayloadRejected as error:
            raise PayloadRejected(f"PUB {index}: {error}") from None
        estimates.append(estimate)
        sampler_pubs += lowered
        sources += [index] * len(lowered)
    if not sampler_pubs:  # constants only; a call is a job all the same, with an id and a record
        sampler_pubs.append(_least())
        sources.append(0)
    recombination = Recombination(estimates=tuple(estimates), sources=tuple(sources))
    return SamplerPayload(pubs=tuple(sampler_pubs)), recombination


def _lowered(
    pub: FrozenEstimatorPub, index: int, *, first: int
) -> tuple[_Estimate, list[FrozenSamplerPub]]:
    observables, elements = _distinct(pub.observables_array)
    grid = np.arange(math.prod(pub.values.shape[:-1])).reshape(pub.values.shape[:-1])
    points, sums = np.broadcast_arrays(grid, elements)
    constants, bases = measured_bases(observables)
    if bases and not pub.precision > 0:
        raise PayloadRejected(
            "precision 0 (exact) was asked, but values are sampled here; give a precision > 0, "
            "for example 0.01"
        )
    shots = _shots(bases, pub.precision)
    readings: list[_Reading] = []
    lowered: list[FrozenSamplerPub] = []
    for number, basis in enumerate(bases):
        used = np.unique(points[np.isin(sums, np.flatnonzero(basis.half_ranges))])
        if not used.size:
            continue
        readings.append(_Reading(pub=first + len(lowered), points=used, basis=basis))
        flat = pub.values.reshape(grid.size, pub.values.shape[-1])
        lowered.append(
            FrozenSamplerPub(
                circuit=_measured(pub.circuit, basis),
                values=flat[used],
                shots=shots[number],
                seed=_seed(pub.seed, index, number),
            )
        )
    estimate = _Estimate(
        points=points,
        sums=sums,
        constants=constants,
        readings=tuple(readings),
        precision=pub.precision,
        shots=sum(p.points * p.shots for p in lowered),
    )
    return estimate, lowered


def _least() -> FrozenSamplerPub:
    circuit = QuantumCircuit(1, 1)
    circuit.measure(0, 0)
    return FrozenSamplerPub(circuit=FrozenCircuit.of(circuit), values=np.empty((0,)), shots=1)


def _distinct(
    array: ObservablesArray,
) -> tuple[list[Mapping[str, float]], NDArray[np.int64]]:
    """Return each different observable once, and the place of every element among them."""
    places: dict[str, int] = {}
    elements = np.empty(array.shape, dtype=np.int64)
    observables: list[Mapping[str, float]] = []
    for index in np.ndindex(*array.shape):
        observable = array[index]
        key = repr(sorted(observable.items()))
        if key not in places:
            places[key] = len(observables)
            observables.append(observable)
        elements[index] = places[key]
    return observables, elements


def _shots(bases: Sequence[MeasuredBasis], precision: float) -> list[int]:
    """Return the shots of each basis, the most that any observable needs there."""
    if not bases:
        return []
    ranges = np.array([basis.half_ranges for basis in bases])  # (bases, observables)
    needed = np.ceil((ranges * ranges.sum(axis=0)).max(axis=1) / precision**2 - 1e-9)
    if needed.max(initial=0) > MOST_SHOTS:
        reachable = precision * math.sqrt(needed.max() / MOST_SHOTS)
        raise PayloadRejected(
            f"precision {precision} needs {needed.max():.2g} shots of one circuit, more than "
            f"{MOST_SHOTS}; give a precision ≥ {reachable:.2g}"
        )
    return [max(1, int(n)) for n in needed]


def _measured(circuit: FrozenCircuit, basis: MeasuredBasis) -> FrozenCircuit:
    """Append the basis' rotations and the measurement of its qubits."""
    measured: QuantumCircuit = circuit.circuit.copy()
    register = ClassicalRegister(len(basis.qubits), free_name(measured, _REGISTER))
    measured.add_register(register)
    for bit, (qubit, letter) in enumerate(zip(basis.qubits, basis.letters, strict=True)):
        if letter == "Y":
            measured.sdg(qubit)
        if letter in "XY":
            measured.h(qubit)
        measured.measure(qubit, register[bit])
    return FrozenCircuit.of(measured)


def _seed(seed: int | None, pub: int, number: int) -> int | None:
    """Return a seed of its own for each basis, so that their errors are independent."""
    if seed is None:
        return None
    text = f"{seed} {pub} {number}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 33


def _combined(estimate: _Estimate, result: PrimitiveResult[Any]) -> PubResult:
    size = int(estimate.points.max(initial=0)) + 1
    evs = np.tile(estimate.constants, (size, 1))
    variances = np.zeros_like(evs)
    for reading in estimate.readings:
        (*_, bits) = result[reading.pub].data.values()  # the register that `_measured` added
        for row, point in enumerate(reading.points):
            mean, variance = _moments(reading.basis, bits, row)
            evs[point] += mean
            variances[point] += variance
    where = (estimate.points, estimate.sums)
    values, stds = evs[where], np.sqrt(variances[where])
    return PubResult(
        DataBin(evs=values, stds=stds, shape=values.shape),
        metadata={"target_precision": estimate.precision, "shots": estimate.shots},
    )


def _moments(basis: MeasuredBasis, bits: BitArray, row: int) -> tuple[_Floats, _Floats]:
    """Return mean and squared standard error of each observable's sum, at one point."""
    outcomes, tally = np.unique(bits.array[row], axis=0, return_counts=True)
    table = np.unpackbits(outcomes[:, ::-1], axis=1, bitorder="little")[:, : bits.num_bits]
    sums = basis.sums(table)  # (outcomes, observables)
    shots = int(tally.sum())
    mean = tally @ sums / shots
    if shots == 1:  # nothing is known of the spread but its bound
        return mean, basis.half_ranges**2
    spread = tally @ (sums - mean) ** 2 / (shots - 1)
    return mean, spread / shots
