"""Average gate errors, and the depolarising noise that makes a gate err exactly as stated.

Sources: M. Nielsen, Phys. Lett. A 303 (2002) 249, for average from process fidelity; the
Pauli transfer matrix of thermal relaxation towards the ground state is triangular with
diagonal (1, exp(-t/T2), exp(-t/T2), exp(-t/T1)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Coherence", "depolarising_parameter", "thermal_error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coherence:
    """How long a qubit keeps energy (t1_s) and phase (t2_s), in seconds; t2_s ≤ 2·t1_s."""

    t1_s: float
    t2_s: float


def thermal_error(duration_s: float, coherences: Sequence[Coherence]) -> float:
    """Return the average gate error that relaxation alone causes, one coherence per qubit.

    >>> round(thermal_error(40e-9, [Coherence(t1_s=35e-6, t2_s=33e-6)]), 6)
    0.000594
    """
    return _average_error(_thermal_process_fidelity(duration_s, coherences), len(coherences))


def depolarising_parameter(
    error: float, duration_s: float, coherences: Sequence[Coherence | None]
) -> float:
    """Return p such that depolarising with p after relaxation has this average gate error.

    The depolarising channel is X → (1 - p)·X + p·1/d, d = 2^qubits, as Aer defines it.
    coherences: one per qubit, None for a qubit that does not relax. Raises ValueError if
    relaxation alone errs more, or if no channel of this kind errs that much.
    """
    known = [one for one in coherences if one is not None]
    qubits = len(coherences)
    dimension: int = 2**qubits
    thermal = _thermal_process_fidelity(duration_s, known)
    floor = _average_error(thermal, qubits)
    if error < floor - 1e-12:
        raise ValueError(
            f"error {error:g} in {duration_s:g} s, but relaxation alone causes {floor:.4g}; "
            "state a larger error, a shorter gate, or longer T1 and T2"
        )
    wanted = ((dimension + 1) * (1 - error) - 1) / dimension
    lowest = 1 / dimension**2
    parameter = (thermal - wanted) / (thermal - lowest)
    if parameter > 1:
        raise ValueError(f"error {error:g} is more than a wholly depolarising gate makes")
    return max(parameter, 0.0)


def _thermal_process_fidelity(duration_s: float, coherences: Sequence[Coherence]) -> float:
    return math.prod(
        (1 + math.exp(-duration_s / one.t1_s) + 2 * math.exp(-duration_s / one.t2_s)) / 4
        for one in coherences
    )


def _average_error(process_fidelity: float, qubits: int) -> float:
    dimension: int = 2**qubits
    return 1 - (dimension * process_fidelity + 1) / (dimension + 1)
