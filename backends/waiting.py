"""How long the delays of a circuit last (pure)."""

from __future__ import annotations

import math

from qiskit import QuantumCircuit
from qiskit.circuit import Delay, ParameterExpression
from qiskit.transpiler import Target as QiskitTarget

from backends.api import PayloadRejected, Target

__all__ = ["check_delays", "delay_seconds"]

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "ps": 1e-12}


def delay_seconds(delay: Delay) -> float:
    """Return the length of a delay. Raises `PayloadRejected` where it is not a time in seconds.

    That is: samples (``dt``), an open parameter, a duration that is computed, no finite number.

    >>> delay_seconds(Delay(250, "ns"))
    2.5e-07
    """
    length = delay.duration
    if isinstance(length, ParameterExpression) and not length.parameters:
        length = float(length)
    if delay.unit not in _SECONDS or not isinstance(length, int | float):
        raise PayloadRejected(
            f"a delay of {length} {delay.unit}: its length in seconds is not known; give a number "
            "and one of the units s, ms, us, ns, ps"
        )
    seconds = length * _SECONDS[delay.unit]
    if not 0 <= seconds < math.inf:
        raise PayloadRejected(f"a delay of {length} {delay.unit}; give a finite length ≥ 0")
    return float(seconds)


def check_delays(circuit: QuantumCircuit, target: Target) -> None:
    """Raise `PayloadRejected` for a delay in samples on a device that states no sample length.

    An ideal simulator, which has no native gates that take time, takes any delay.
    """
    device = target.native
    if not isinstance(device, QiskitTarget) or device.dt is not None:
        return
    for step in circuit.data:
        if step.name == "delay" and step.operation.unit == "dt":
            raise PayloadRejected(
                f"a delay of {step.operation.duration} samples (dt), and {target.name} states no "
                "sample length; give a number and one of the units s, ms, us, ns, ps"
            )
        if step.name == "delay":
            delay_seconds(step.operation)
        for block in getattr(step.operation, "blocks", ()):
            check_delays(block, target)
