"""Blocks of points and shots, which any worker may run: how a task is cut and joined (pure)."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from qiskit.primitives import BitArray, DataBin, PubResult, SamplerPubResult

from backends.payloads import SEED_STRIDE, SEEDS

__all__ = ["PubBlock", "PubLoad", "divide", "joined", "shot_blocks"]

# Shots of one point that share a random stream. Aer gives consecutive shots consecutive seeds and
# points a distance of 2113, so longer blocks of neighbouring points would share theirs.
_SHOTS = 128
_MOST_SHOTS = 2048
_USUAL_BLOCKS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PubLoad:
    """What one PUB runs.

    shots: (first, end) of each block. is_drawn: whether each shot is an evolution of its own. seed:
    of the first point and shot.
    """

    points: int
    shots: tuple[tuple[int, int], ...]
    is_drawn: bool
    seed: int
    seconds: float

    @property
    def pieces(self) -> int:
        """Into how many pieces the PUB can be cut."""
        return self.points * len(self.shots)


@dataclass(frozen=True, slots=True, kw_only=True)
class PubBlock:
    """Some points and shots of a PUB, run by one worker in one call. seed: of its first point."""

    pub: int
    first_point: int
    end_point: int
    first_shot: int
    end_shot: int
    seed: int


def shot_blocks(shots: int) -> tuple[tuple[int, int], ...]:
    """Cut the shots of a point, each of which is an evolution of its own, into equal blocks.

    The number follows from the shots alone, so equal seeds give equal counts on any machine.

    >>> shot_blocks(278)
    ((0, 92), (92, 185), (185, 278))
    """
    count = max(-(-shots // _MOST_SHOTS), min(_USUAL_BLOCKS, -(-shots // _SHOTS)), 1)
    edges = [shots * number // count for number in range(count + 1)]
    return tuple(itertools.pairwise(edges))


def divide(loads: Sequence[PubLoad], parts: int) -> list[tuple[PubBlock, ...]]:
    """Divide blocks into at most ``parts`` non-empty parts that take about equally long.

    It changes no counts, since the random stream of a point follows from its index.
    """
    total = sum(load.seconds for load in loads)
    divided: list[list[PubBlock]] = [[]]
    done = 0.0
    for pub, load in enumerate(loads):
        for number, (first, end) in enumerate(load.shots):
            point_s = load.seconds / load.pieces if load.pieces else 0.0
            point = 0
            while point < load.points:
                edge = total * len(divided) / parts
                if divided[-1] and len(divided) < parts and done + point_s / 2 > edge:
                    divided.append([])
                    continue
                room = round((edge - done) / point_s) if point_s else load.points
                last = len(divided) == parts
                taken = load.points - point if last else min(load.points - point, max(1, room))
                divided[-1].append(
                    PubBlock(
                        pub=pub,
                        first_point=point,
                        end_point=point + taken,
                        first_shot=first,
                        end_shot=end,
                        seed=_seed(load, number, point),
                    )
                )
                point += taken
                done += taken * point_s
    return [tuple(blocks) for blocks in divided]


def _seed(load: PubLoad, number: int, point: int) -> int:
    """Return a block's seed. Points count on as Aer's do, in every block of shots alike.

    Aer gives shot k the seed s + k, so that nearly all shots of seed s + 1 were those of seed s.
    What keeps neighbours apart follows from the remainder, which all points of a seed share.
    """
    seed = load.seed
    if load.is_drawn:
        text = f"shots:{number}:{seed % SEED_STRIDE}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        seed += int.from_bytes(digest, "big") >> 1
    return (seed + SEED_STRIDE * point) % SEEDS


_OF_A_BLOCK = ("block", "shape")


def joined(results: Iterable[PubResult]) -> list[PubResult]:
    """Join the results of all blocks of a task, given in any order, into one per PUB."""
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
