"""Counts of a simulation as Qiskit's bit arrays, one per classical register."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.primitives import BitArray

from backends.payloads import SEED_STRIDE, SEEDS

__all__ = ["Register", "bit_arrays", "registers_of"]

_Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """A classical register. bits: where its bits are among the circuit's, lowest first."""

    name: str
    bits: tuple[int, ...]


def registers_of(circuit: QuantumCircuit) -> tuple[Register, ...]:
    """Return the classical registers, the fields of the sampler's result."""
    index = {bit: i for i, bit in enumerate(circuit.clbits)}
    return tuple(
        Register(name=register.name, bits=tuple(index[bit] for bit in register))
        for register in circuit.cregs
    )


def bit_arrays(
    counts: Sequence[Mapping[str, int]],
    registers: Sequence[Register],
    shape: tuple[int, ...],
    seed: int,
) -> dict[str, BitArray]:
    """Return one `BitArray` of the given shape per register.

    counts: one mapping of hexadecimal outcome to number of shots per point, all with equally
    many shots. Aer tells how often an outcome came, not when; the shots of a point are
    independent, so they are put into an order drawn from the point's seed. seed: of the first.
    """
    shots = sum(counts[0].values())
    total = 1 + max((bit for register in registers for bit in register.bits), default=0)
    arrays = {
        r.name: np.empty((len(counts), shots, (len(r.bits) + 7) // 8), dtype=np.uint8)
        for r in registers
    }
    for point, tally in enumerate(counts):
        order = np.random.default_rng((seed + SEED_STRIDE * point) % SEEDS)
        outcomes = _bytes(tally, (total + 7) // 8)
        ranks = np.repeat(np.arange(len(tally)), np.fromiter(tally.values(), dtype=np.int64))
        order.shuffle(ranks)
        for register in registers:
            arrays[register.name][point] = _select(outcomes, register.bits, total)[ranks]
    return {
        r.name: BitArray(
            arrays[r.name].reshape(*shape, shots, arrays[r.name].shape[-1]), len(r.bits)
        )
        for r in registers
    }


def _bytes(tally: Mapping[str, int], size: int) -> _Bytes:
    """Return the outcomes as big-endian bytes, one row each."""
    mask = (1 << (8 * size)) - 1
    joined = b"".join((int(key, 16) & mask).to_bytes(size, "big") for key in tally)
    return np.frombuffer(joined, dtype=np.uint8).reshape(len(tally), size)


def _select(outcomes: _Bytes, bits: tuple[int, ...], total: int) -> _Bytes:
    """Pick a register's bits out of whole outcomes, packed as `BitArray` wants them."""
    if bits == tuple(range(total)):
        return outcomes
    table = np.unpackbits(outcomes[:, ::-1], axis=1, bitorder="little")
    chosen = np.packbits(table[:, bits], axis=1, bitorder="little")
    return chosen[:, ::-1]
