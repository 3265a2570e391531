"""Average gate errors, and the depolarising noise that makes a gate err exactly as stated.

Sources: M. Nielsen, Phys. Lett. A 303 (2002) 249, for average from process fidelity; the
Pauli transfer matrix of thermal relaxation towards the ground state is triangular with
diagonal (1, exp(-t/T2), exp(-t/T2), exp(-t/T1)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Coherence", "Relaxation", "depolarising_parameter", "relaxation"]


# Depolarising before damping equals depolarising after it up to here (`backends.noise`).
_MOST_DAMPING = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Coherence:
    """How long a qubit keeps energy (t1_s) and phase (t2_s), in seconds; t2_s ≤ 2·t1_s."""

    t1_s: float
    t2_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """Relaxation of a qubit: a draw of at most one of Z and reset, then amplitude damping.

    The draw does not depend on the state, so a simulator makes it before a shot. damping: 0 for
    T2 ≤ T1; a simulator must weigh it with the state.
    """

    phase_flip: float
    reset: float
    damping: float


def relaxation(duration_s: float, coherence: Coherence | None) -> Relaxation:
    """Return the relaxation of a qubit during a time, towards its ground state; None never relaxes.

    Populations decay as exp(-t/T1), coherences as exp(-t/T2). For T2 ≤ T1 a mixture of nothing,
    Z and reset does both exactly; beyond, amplitude damping alone loses less coherence, and Z
    takes what is missing.
    """
    if coherence is None:
        return Relaxation(phase_flip=0.0, reset=0.0, damping=0.0)
    decay = -math.expm1(-duration_s / coherence.t1_s)
    if coherence.t2_s <= coherence.t1_s:
        rate = 1 / coherence.t2_s - 1 / coherence.t1_s
        flip = (1 - decay) * -math.expm1(-duration_s * rate) / 2
        return Relaxation(phase_flip=flip, reset=decay, damping=0.0)
    rate = max(0.0, 1 / coherence.t2_s - 1 / (2 * coherence.t1_s))
    return Relaxation(phase_flip=-math.expm1(-duration_s * rate) / 2, reset=0.0, damping=decay)


def depolarising_parameter(
    error: float, duration_s: float, coherences: Sequence[Coherence | None]
) -> float:
    """Return p such that depolarising with p after relaxation has this average gate error.

    The channel is X → (1 - p)·X + p·1/d, d = 2^qubits, as in Aer. Raises ValueError if relaxation
    alone errs more, no channel errs that much, or a qubit with T2 > T1 loses over half its
    population.
    """
    known = [one for one in coherences if one is not None]
    qubits = len(coherences)
    strongest = max((relaxation(duration_s, one).damping for one in known), default=0.0)
    if strongest > _MOST_DAMPING:
        raise ValueError(
            f"in {duration_s:g} s a qubit with T2 > T1 loses {strongest:.2g} of its population, "
            f"at most {_MOST_DAMPING:g} can be simulated; state a shorter gate or a longer T1"
        )
    dimension: int = 2**qubits
    thermal = math.prod(
        (1 + math.exp(-duration_s / one.t1_s) + 2 * math.exp(-duration_s / one.t2_s)) / 4
        for one in known
    )
    floor = 1 - (dimension * thermal + 1) / (dimension + 1)
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
