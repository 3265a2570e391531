"""A QPU as an IQM Server itself describes it, where no profile does (pure)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from backends.api import Calibration, Target
from backends.metering import Metering

__all__ = ["described_by_server"]

_NUMBER = re.compile(r"QB([1-9]\d*)")
# More than any device has: what is kept of a target grows with the number.
_MOST_QUBITS = 10_000
_UNKNOWN_TIME = datetime.fromtimestamp(0, UTC)


def described_by_server(
    name: str, architecture: Mapping[str, Any], limits: Mapping[str, Any]
) -> Target:
    """Return a target without times and prices, which a server does not state.

    Args:
        name: Of the quantum computer.
        architecture: Its dynamic quantum architecture.
        limits: What one job may hold; empty if it is not stated.

    Raises ``ValueError`` if it is not such an architecture.
    """
    try:
        found = [_NUMBER.fullmatch(qubit) for qubit in architecture["qubits"]]
        numbers = [int(one[1]) for one in found if one is not None]
        resonators, gates = architecture["computational_resonators"], architecture["gates"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"it lacks {error}") from None
    if not numbers:
        raise ValueError("it has no qubits named QB1, QB2 and so on")
    num_qubits = max(numbers)
    if num_qubits > _MOST_QUBITS:
        raise ValueError(f"it has a qubit QB{num_qubits}; expected QB1 to QB{_MOST_QUBITS}")
    pairs: tuple[tuple[int, int], ...] | None = None if resonators else ()
    shots, circuits = (
        _limit(limits, "max_shots_per_circuit"),
        _limit(limits, "max_circuits_per_job"),
    )
    executions = _limit(limits, "max_executions_per_job")
    if executions is not None and shots is not None:
        most = max(1, executions // shots)
        circuits = most if circuits is None else min(circuits, most)
    return Target(
        name=name,
        num_qubits=num_qubits,
        payload_kinds=frozenset({"sampler"}),
        native_gates=("r", "cz", "move") if "move" in gates else ("r", "cz"),
        coupling=pairs,  # those of the calibration are filled in with each architecture
        resonator=num_qubits if resonators else None,
        max_shots=shots,
        max_circuits=circuits,
        calibration=Calibration(id="", taken_at=_UNKNOWN_TIME),
        metering=Metering(),
    )


def _limit(limits: Mapping[str, Any], name: str) -> int | None:
    stated = limits.get(name)
    return stated if isinstance(stated, int) and stated > 0 else None
