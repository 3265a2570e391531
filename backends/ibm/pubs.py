"""Sampler PUBs as IBM's client takes them, and its results as hpcqc has them (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from qiskit.primitives import BitArray, DataBin, SamplerPubResult
from qiskit.primitives.containers.sampler_pub import SamplerPub

from backends.errors import TaskFailed
from backends.payloads import FrozenSamplerPub

__all__ = ["joined", "separate"]


def separate(pub: FrozenSamplerPub) -> list[SamplerPub]:
    """Return the PUBs that have together the points of one.

    IBM's client drops the shape of a PUB without parameters and samples it once, so each of its
    points becomes a PUB.
    """
    whole = pub.to_qiskit()
    if pub.values.shape[-1]:
        return [whole]
    return [SamplerPub(whole.circuit, shots=pub.shots)] * pub.points


def joined(pub: FrozenSamplerPub, results: Sequence[Any]) -> SamplerPubResult:
    """Put the results of `separate` together. Raises `TaskFailed` for those of another PUB."""
    shape, fields = pub.values.shape[:-1], {}
    for register in pub.circuit.circuit.cregs:
        try:
            parts = [result.data[register.name].array for result in results]
            num_bytes = (register.size + 7) // 8
            bits = np.stack(parts).reshape(*shape, pub.shots, num_bytes)
        except (KeyError, ValueError) as error:
            raise TaskFailed(
                f"the result has no {pub.shots} shots of register {register.name!r} at "
                f"{pub.points} points: {error}"
            ) from error
        fields[register.name] = BitArray(np.ascontiguousarray(bits), register.size)
    return SamplerPubResult(DataBin(**fields, shape=shape), metadata={"shots": pub.shots})
