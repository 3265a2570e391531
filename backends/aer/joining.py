"""The results of blocks of points and shots as results of whole PUBs (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from qiskit.primitives import BitArray, DataBin, PubResult, SamplerPubResult

__all__ = ["joined"]

_OF_A_BLOCK = ("block", "shape")


def joined(results: Iterable[PubResult]) -> list[PubResult]:
    """Return one result per PUB, in order. results: of all blocks of a task, in any order.

    The metadata of each name its block (`blocks.Block`) and the shape of its PUB.
    """
    blocks: dict[int, list[PubResult]] = {}
    for result in results:
        blocks.setdefault(result.metadata["block"]["pub"], []).append(result)
    return [_pub(blocks[pub]) for pub in sorted(blocks)]


def _pub(blocks: Sequence[PubResult]) -> PubResult:
    first = blocks[0]
    metadata = {k: v for k, v in first.metadata.items() if k not in _OF_A_BLOCK}
    if isinstance(first, SamplerPubResult):
        shape = tuple(first.metadata["shape"])
        return SamplerPubResult(DataBin(**_bits(blocks, shape), shape=shape), metadata=metadata)
    # Each block has zeros where a value belongs to another.
    evs = sum(block.data.evs for block in blocks)
    return PubResult(DataBin(evs=evs, stds=np.zeros(evs.shape), shape=evs.shape), metadata=metadata)


def _bits(blocks: Sequence[PubResult], shape: tuple[int, ...]) -> dict[str, BitArray]:
    """Put the shots of all blocks in their places."""
    shots = max(block.metadata["block"]["end_shot"] for block in blocks)
    points = max(block.metadata["block"]["end_point"] for block in blocks)
    fields: dict[str, Any] = {}
    for name, bits in blocks[0].data.items():
        array = np.empty((points, shots, bits.array.shape[-1]), dtype=np.uint8)
        for block in blocks:
            at = block.metadata["block"]
            place = np.s_[at["first_point"] : at["end_point"], at["first_shot"] : at["end_shot"]]
            array[place] = block.data[name].array
        fields[name] = BitArray(array.reshape(*shape, *array.shape[1:]), bits.num_bits)
    return fields
