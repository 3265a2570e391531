"""Sampler payloads as jobs of IQM's protocol, and measurements as results (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.circuit import CircuitInstruction
from qiskit.primitives import BitArray, DataBin, PrimitiveResult, SamplerPubResult

from backends.delays import delay_seconds
from backends.errors import PayloadRejected, TaskFailed
from backends.iqm.components import Components
from backends.payloads import FrozenSamplerPub, SamplerPayload

__all__ = ["PubRecipe", "circuits_of", "grouped", "largest_bytes", "recipes_of", "result_of"]

_KEY = "m"
# Of JSON, however it is indented.
_LARGEST_BIT_BYTES = 24
_Bits = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class PubRecipe:
    """How a PUB's result is put together.

    shape: of its points. num_bits: classical bits of its circuit. registers: of each the places
    of its bits, lowest first. reads: of each measurement, in order, the bits that it fills.
    """

    shape: tuple[int, ...]
    shots: int
    num_bits: int
    registers: Mapping[str, tuple[int, ...]]
    reads: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "shape": list(self.shape),
            "shots": self.shots,
            "num_bits": self.num_bits,
            "registers": [[name, list(bits)] for name, bits in self.registers.items()],
            "reads": [list(bits) for bits in self.reads],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PubRecipe:
        """Undo `to_json`."""
        return cls(
            shape=tuple(data["shape"]),
            shots=data["shots"],
            num_bits=data["num_bits"],
            registers={name: tuple(bits) for name, bits in data["registers"]},
            reads=tuple(tuple(bits) for bits in data["reads"]),
        )


def circuits_of(payload: SamplerPayload, components: Components) -> list[dict[str, Any]]:
    """Return the bound circuits of all PUBs in order, as the server takes them.

    Raises `PayloadRejected` for an instruction that the protocol lacks.
    """
    return [
        {"name": f"pub{index}-{point}", "instructions": instructions, "metadata": None}
        for index, pub in enumerate(payload.pubs)
        for point, instructions in enumerate(_points(pub, components))
    ]


def recipes_of(payload: SamplerPayload) -> list[PubRecipe]:
    """Return how the results of the PUBs are put together."""
    recipes = []
    for pub in payload.pubs:
        circuit = pub.circuit.circuit
        place = {bit: number for number, bit in enumerate(circuit.clbits)}
        recipes.append(
            PubRecipe(
                shape=tuple(pub.values.shape[:-1]),
                shots=pub.shots,
                num_bits=circuit.num_clbits,
                registers={
                    register.name: tuple(place[bit] for bit in register)
                    for register in circuit.cregs
                },
                reads=tuple(
                    tuple(place[step.clbits[0]] for step in group)
                    for group in grouped(circuit)
                    if group[0].name == "measure"
                ),
            )
        )
    return recipes


def largest_bytes(recipes: Sequence[PubRecipe]) -> int:
    """Return how large the measurements of a job may be in JSON."""
    rows = sum(
        math.prod(one.shape) * one.shots * sum(len(places) + 2 for places in one.reads)
        for one in recipes
    )
    return rows * _LARGEST_BIT_BYTES


def result_of(
    recipes: Sequence[PubRecipe], measurements: Sequence[Mapping[str, Any]]
) -> PrimitiveResult[Any]:
    """Return the result of a job from its measurements, a mapping for each circuit.

    Raises `TaskFailed` for measurements that do not belong to such a job.
    """
    wanted = sum(math.prod(recipe.shape) for recipe in recipes)
    if not isinstance(measurements, list):
        raise TaskFailed("the server returned no list of measurements, one for each circuit")
    if len(measurements) != wanted:
        raise TaskFailed(f"the server returned {len(measurements)} circuits; {wanted} were sent")
    rest = iter(measurements)
    pubs = []
    for recipe in recipes:
        bits = np.stack([_point(recipe, next(rest)) for _ in range(math.prod(recipe.shape))])
        fields = {
            name: BitArray(_packed(bits[..., list(places)], recipe), len(places))
            for name, places in recipe.registers.items()
        }
        data = DataBin(**fields, shape=recipe.shape)
        pubs.append(SamplerPubResult(data, metadata={"shots": recipe.shots}))
    return PrimitiveResult(pubs, metadata={"version": 2})


def _points(pub: FrozenSamplerPub, components: Components) -> Iterator[list[dict[str, Any]]]:
    circuit = pub.circuit.circuit
    for row in pub.values.reshape(pub.points, pub.values.shape[-1]):
        bound = circuit.assign_parameters(row) if row.size else circuit
        yield _instructions(bound, components)


def _instructions(circuit: QuantumCircuit, components: Components) -> list[dict[str, Any]]:
    names = {qubit: components.name(number) for number, qubit in enumerate(circuit.qubits)}
    written = []
    number = 0
    for group in grouped(circuit):
        if group[0].name == "measure":
            locus = [names[step.qubits[0]] for step in group]
            written.append(_of("measure", locus, key=f"{_KEY}{number}"))
            number += 1
        else:
            (step,) = group
            written.append(_instruction(step, [names[qubit] for qubit in step.qubits]))
    return written


def _instruction(step: CircuitInstruction, locus: list[str]) -> dict[str, Any]:
    match step.name:
        case "r":
            theta, phi = map(float, step.operation.params)
            return _of("prx", locus, angle=theta, phase=phi)
        case "cz" | "move" | "barrier":
            return _of(step.name, locus)
        case "delay":
            return _of("delay", locus, duration=delay_seconds(step.operation))
        case name:
            raise PayloadRejected(f"IQM's protocol has no {name!r}; transpile for the target first")


def _of(name: str, locus: list[str], **arguments: Any) -> dict[str, Any]:
    return {"name": name, "locus": locus, "args": arguments, "implementation": None}


def grouped(circuit: QuantumCircuit) -> Iterator[list[CircuitInstruction]]:
    """Yield instructions alone, but measurements that follow each other together.

    No qubit is read, and no bit is filled, twice in a group.
    """
    group: list[CircuitInstruction] = []
    for step in circuit.data:
        if step.name == "measure":
            taken = {bit for one in group for bit in (*one.qubits, *one.clbits)}
            if taken.intersection((*step.qubits, *step.clbits)):
                yield group
                group = []
            group.append(step)
            continue
        if group:
            yield group
            group = []
        yield [step]
    if group:
        yield group


def _point(recipe: PubRecipe, measured: Mapping[str, Any]) -> _Bits:
    """Return the classical bits of each shot, shape (shots, bits)."""
    bits = np.zeros((recipe.shots, recipe.num_bits), dtype=np.uint8)
    for number, places in enumerate(recipe.reads):
        key = f"{_KEY}{number}"
        try:
            table = np.asarray(measured[key])
            if table.dtype.kind not in "bui":  # a cast would cut 0.9 down to 0
                raise TypeError
        except (KeyError, TypeError, ValueError, OverflowError):
            raise TaskFailed(f"the server returned no readable measurement {key!r}") from None
        if table.shape != (recipe.shots, len(places)) or not np.isin(table, (0, 1)).all():
            raise TaskFailed(
                f"the server returned measurement {key!r} of shape {table.shape}; expected bits of "
                f"shape {(recipe.shots, len(places))}"
            )
        bits[:, list(places)] = table
    return bits


def _packed(bits: _Bits, recipe: PubRecipe) -> _Bits:
    """Pack bits, lowest first, as `BitArray` wants them."""
    packed = np.packbits(bits, axis=-1, bitorder="little")[..., ::-1]
    return np.ascontiguousarray(packed.reshape(*recipe.shape, recipe.shots, -1))
