"""Samples of AQT's protocol as results: one bit per ion and shot, ion 0 first (pure)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit.primitives import BitArray, DataBin, PrimitiveResult, SamplerPubResult

from backends.errors import TaskFailed
from backends.payloads import SamplerPayload

__all__ = ["SampleRecipe", "largest_bytes", "recipes_of", "result_of"]

_NOT_MEASURED = -1
# Of JSON, however it is indented.
_LARGEST_BIT_BYTES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRecipe:
    """How a PUB's result is put together.

    shape: of its points. num_qubits: of its circuit, all of which are measured. registers: of
    each the qubits whose outcomes its bits are, lowest bit first; -1 for a bit that stays 0.
    """

    shape: tuple[int, ...]
    shots: int
    num_qubits: int
    registers: Mapping[str, tuple[int, ...]]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "shape": list(self.shape),
            "shots": self.shots,
            "num_qubits": self.num_qubits,
            "registers": [[name, list(qubits)] for name, qubits in self.registers.items()],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SampleRecipe:
        """Undo `to_json`."""
        return cls(
            shape=tuple(data["shape"]),
            shots=data["shots"],
            num_qubits=data["num_qubits"],
            registers={name: tuple(qubits) for name, qubits in data["registers"]},
        )


def recipes_of(payload: SamplerPayload) -> list[SampleRecipe]:
    """Return how the results of the PUBs are put together."""
    recipes = []
    for pub in payload.pubs:
        circuit = pub.circuit.circuit
        number = {qubit: index for index, qubit in enumerate(circuit.qubits)}
        measured = {
            step.clbits[0]: number[step.qubits[0]]
            for step in circuit.data
            if step.name == "measure"
        }
        recipes.append(
            SampleRecipe(
                shape=tuple(pub.values.shape[:-1]),
                shots=pub.shots,
                num_qubits=max(1, circuit.num_qubits),
                registers={
                    register.name: tuple(measured.get(bit, _NOT_MEASURED) for bit in register)
                    for register in circuit.cregs
                },
            )
        )
    return recipes


def largest_bytes(recipes: Sequence[SampleRecipe]) -> int:
    """Return how large the samples of a job may be in JSON."""
    rows = sum(math.prod(one.shape) * one.shots * (one.num_qubits + 2) for one in recipes)
    return rows * _LARGEST_BIT_BYTES


def result_of(recipes: Sequence[SampleRecipe], samples: Sequence[Any]) -> PrimitiveResult[Any]:
    """Return the result of a job from the samples of each circuit, rows of bits by shot.

    Raises `TaskFailed` for samples that do not belong to such a job.
    """
    wanted = sum(math.prod(recipe.shape) for recipe in recipes)
    if len(samples) != wanted:
        raise TaskFailed(f"the server returned {len(samples)} circuits; {wanted} were sent")
    rest = iter(samples)
    pubs = []
    for recipe in recipes:
        points = math.prod(recipe.shape)
        bits = [_bits(recipe, next(rest)) for _ in range(points)]
        whole = np.stack(bits) if bits else np.zeros((0, recipe.shots, recipe.num_qubits + 1))
        fields = {
            name: BitArray(_packed(whole[..., list(qubits)], recipe), len(qubits))
            for name, qubits in recipe.registers.items()
        }
        data = DataBin(**fields, shape=recipe.shape)
        pubs.append(SamplerPubResult(data, metadata={"shots": recipe.shots}))
    return PrimitiveResult(pubs, metadata={"version": 2})


def _bits(recipe: SampleRecipe, samples: Any) -> NDArray[np.uint8]:
    """Return the outcomes by shot and ion, with a last column of zeros for unmeasured bits."""
    try:
        table = np.asarray(samples)
    except (TypeError, ValueError, OverflowError):  # rows of different lengths
        table = np.empty(0)
    expected = (recipe.shots, recipe.num_qubits)
    if table.shape != expected or table.dtype.kind not in "iu" or not np.isin(table, (0, 1)).all():
        raise TaskFailed(
            f"the server returned samples of shape {table.shape}; expected bits of shape {expected}"
        )
    return np.pad(table.astype(np.uint8), ((0, 0), (0, 1)))


def _packed(bits: NDArray[Any], recipe: SampleRecipe) -> NDArray[np.uint8]:
    """Pack bits, lowest first, as `BitArray` wants them."""
    packed = np.packbits(bits.astype(np.uint8), axis=-1, bitorder="little")[..., ::-1]
    return np.ascontiguousarray(packed.reshape(*recipe.shape, recipe.shots, -1))
