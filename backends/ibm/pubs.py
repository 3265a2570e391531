"""Sampler PUBs as IBM's client takes them, and its results as hpcqc has them (pure)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from qiskit.primitives import BitArray, DataBin, SamplerPubResult
from qiskit.primitives.containers.sampler_pub import SamplerPub

from backends.errors import TaskFailed
from backends.payloads import FrozenSamplerPub

__all__ = ["PubForm", "separate"]


def separate(pub: FrozenSamplerPub) -> list[SamplerPub]:
    """Return the PUBs that have together the points of one.

    IBM's client drops the shape of a PUB without parameters and samples it once, so each of its
    points becomes a PUB.
    """
    whole = pub.to_qiskit()
    if pub.values.shape[-1]:
        return [whole]
    return [SamplerPub(whole.circuit, shots=pub.shots)] * pub.points


@dataclass(frozen=True, slots=True, kw_only=True)
class PubForm:
    """How the results of `separate` are put together.

    shape: of the PUB's points. parts: how many results there are. registers: sizes by name.
    """

    shape: tuple[int, ...]
    shots: int
    parts: int
    registers: Mapping[str, int]

    @classmethod
    def of(cls, pub: FrozenSamplerPub) -> PubForm:
        """Return that of a PUB."""
        return cls(
            shape=pub.values.shape[:-1],
            shots=pub.shots,
            parts=1 if pub.values.shape[-1] else pub.points,
            registers={register.name: register.size for register in pub.circuit.circuit.cregs},
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PubForm:
        """Undo `to_json`."""
        return cls(**{**data, "shape": tuple(data["shape"]), "registers": dict(data["registers"])})

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "shape": list(self.shape),
            "shots": self.shots,
            "parts": self.parts,
            "registers": list(self.registers.items()),
        }

    @property
    def circuits(self) -> int:
        """How many bound circuits there are."""
        return math.prod(self.shape)

    def joined(self, results: Sequence[Any]) -> SamplerPubResult:
        """Put results together. Raises `TaskFailed` for those of another PUB."""
        fields = {}
        for name, size in self.registers.items():
            try:
                parts = [result.data[name].array for result in results]
                bits = np.stack(parts).reshape(*self.shape, self.shots, (size + 7) // 8)
            except (KeyError, ValueError) as error:
                raise TaskFailed(
                    f"the result has no {self.shots} shots of register {name!r} at {self.circuits} "
                    f"points: {error}"
                ) from error
            fields[name] = BitArray(np.ascontiguousarray(bits), size)
        return SamplerPubResult(DataBin(**fields, shape=self.shape), metadata={"shots": self.shots})
