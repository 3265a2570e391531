"""IBM's description of a device as a target (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from qiskit import QuantumCircuit
from qiskit.circuit import Gate
from qiskit.transpiler import Target as QiskitTarget

from backends.api import Calibration, Target
from backends.errors import PayloadRejected
from backends.metering import Metering
from backends.payloads import SamplerPayload

__all__ = ["calibration_of", "check_branches", "described"]


def described(
    name: str,
    device: QiskitTarget,
    calibration: Calibration,
    *,
    max_shots: int | None,
    max_circuits: int | None,
    **more: Any,
) -> Target:
    """Return the target of a device that Qiskit's own target describes.

    Qubits that cannot be measured are out of use.
    """
    gates = [
        name
        for name in device.operation_names
        if isinstance(device.operation_from_name(name), Gate)
    ]
    pairs = {
        tuple(sorted(place))
        for name in gates
        for place in device[name] or ()
        if place is not None and len(place) == 2
    }
    measured = {place[0] for place in device["measure"] or ()}
    return Target(
        name=name,
        num_qubits=device.num_qubits,
        payload_kinds=frozenset({SamplerPayload.kind}),
        native_gates=tuple(sorted(gates)),
        coupling=tuple(sorted(pairs)),
        unusable_qubits=tuple(q for q in range(device.num_qubits) if q not in measured),
        mid_circuit_measurement="reset" in device.operation_names,
        max_shots=max_shots,
        max_circuits=max_circuits,
        calibration=calibration,
        metering=Metering(),
        native=device,
        **more,
    )


def calibration_of(name: str, taken_at: datetime) -> Calibration:
    """Return a calibration whose id follows from its time: IBM's properties state no other."""
    moment = taken_at.astimezone(UTC)
    return Calibration(id=f"{name}-{moment:%Y%m%dT%H%M%SZ}", taken_at=moment)


def check_branches(payload: SamplerPayload, target: Target) -> None:
    """Raise `PayloadRejected` for control flow that the device does not list."""
    for index, pub in enumerate(payload.pubs):
        for name in _control_flow(pub.circuit.circuit):
            if name not in target.native.operation_names:
                raise PayloadRejected(
                    f"PUB {index}: {name!r} is not among the instructions of {target.name}, which "
                    f"are: {', '.join(sorted(target.native.operation_names))}"
                )


def _control_flow(circuit: QuantumCircuit) -> Iterator[str]:
    for step in circuit.data:
        if step.is_control_flow():
            yield step.name
            for block in step.operation.blocks:
                yield from _control_flow(block)
