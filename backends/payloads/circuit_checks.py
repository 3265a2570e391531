"""Whether a target can run the circuits of PUBs (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from qiskit import QuantumCircuit

from backends.delays import check_delays
from backends.errors import PayloadRejected
from backends.gates import CONTROL_FLOW_NAMES, check_for_device, check_instructions
from backends.payloads.pubs import PubPayload

if TYPE_CHECKING:
    from backends.api import Target

__all__ = ["check_pubs", "check_unmeasured"]

# Understood by every device here, whatever its native gates are.
_ALWAYS = frozenset({"barrier", "delay", "measure"})
_CLASSICAL = CONTROL_FLOW_NAMES | {"store"}


def check_pubs(
    payload: PubPayload,
    target: Target,
    numbers: Sequence[int] | None = None,
    *,
    unmeasured: bool = False,
    written: Sequence[QuantumCircuit] | None = None,
) -> None:
    """Raise `PayloadRejected` for a circuit that can never run on the target.

    That is: too wide, gates that are not native or pairs that are not coupled where the site
    does not transpile, measurement in the middle where the device has none, delays whose
    length the device does not know, and, where it must be unmeasured, measurement.
    numbers: what the user calls the PUBs, where this is not their order here. written: the circuits
    before transpilation, whose gates the user knows.
    """
    seen: set[int] = set()
    circuits = [pub.circuit.circuit for pub in payload.pubs]
    for index, circuit in enumerate(circuits):
        if id(circuit) in seen:
            continue
        seen.add(id(circuit))
        try:
            check_instructions(circuit)
            check_delays(circuit, target)
            _check_width(circuit, target)
            if unmeasured:
                check_unmeasured(circuit)
            if not target.mid_circuit_measurement:
                _check_final_measurement(
                    circuit, target, None if written is None else written[index]
                )
            if target.native_gates is not None:
                check_for_device(circuit, target.name)
            if not target.site_transpiles:
                _check_native(circuit, target)
        except PayloadRejected as error:
            number = index if numbers is None else numbers[index]
            raise PayloadRejected(f"PUB {number}: {error}") from None


def _check_width(circuit: QuantumCircuit, target: Target) -> None:
    if target.num_qubits is None:
        return
    used = sorted({qubit for _, qubits in _steps(circuit) for qubit in qubits})
    if target.site_transpiles:  # the circuit's qubits are virtual, only their number counts
        usable = target.num_qubits - len(target.unusable_qubits)
        if len(used) > usable:
            raise PayloadRejected(
                f"the circuit uses {len(used)} qubits, {target.name} has {usable}; "
                "use fewer or choose a wider QPU"
            )
        return
    allowed = set(range(target.num_qubits)) - set(target.unusable_qubits)
    if target.resonator is not None:
        allowed.add(target.resonator)
    outside = [qubit for qubit in used if qubit not in allowed]
    if not outside:
        return
    if outside[-1] >= target.num_qubits:
        raise PayloadRejected(
            f"the circuit uses qubit {outside[-1]}, {target.name} has {target.num_qubits} qubits "
            f"(0 to {target.num_qubits - 1}); use fewer or choose a wider QPU"
        )
    raise PayloadRejected(
        f"qubit {outside[0]} of {target.name} is out of use; transpile for the current target"
    )


def check_unmeasured(circuit: QuantumCircuit) -> None:
    """Raise `PayloadRejected` for a circuit that an estimator cannot add measurements to."""
    if any(name == "measure" or name in _CLASSICAL for name, _ in _steps(circuit)):
        raise PayloadRejected(
            "an estimator's circuit must not measure or branch: its observables are measured "
            "for it; call circuit.remove_final_measurements()"
        )


def _check_final_measurement(
    circuit: QuantumCircuit, target: Target, written: QuantumCircuit | None = None
) -> None:
    measured: set[int] = set()
    for name, qubits in _steps(circuit):
        if name in ("barrier", "delay"):
            continue
        if name in _CLASSICAL or measured.intersection(qubits):
            if written is not None:
                _check_final_measurement(written, target)
            raise PayloadRejected(
                f"{name!r} comes after a measurement or depends on one; {target.name} measures "
                "once, at the end; move all measurements to the end"
            )
        if name == "measure":
            measured.update(qubits)


def _check_native(circuit: QuantumCircuit, target: Target) -> None:
    if target.native_gates is None:
        return
    native = _ALWAYS | {"reset"} | set(target.native_gates) | _CLASSICAL
    coupled = None if target.coupling is None else {frozenset(pair) for pair in target.coupling}
    for name, qubits in _steps(circuit):
        if name not in native:
            raise PayloadRejected(
                f"gate {name!r} is not native to {target.name}, which has "
                f"{', '.join(target.native_gates)}; transpile for its target first"
            )
        if name in _ALWAYS or name in _CLASSICAL or len(qubits) < 2:
            continue
        _check_pair(name, qubits, target, coupled)


def _check_pair(
    name: str, qubits: tuple[int, ...], target: Target, coupled: set[frozenset[int]] | None
) -> None:
    if target.resonator is not None:
        if target.resonator not in qubits:
            raise PayloadRejected(
                f"gate {name!r} on qubits {list(qubits)}; on the star {target.name} every "
                f"two-qubit gate is (qubit, {target.resonator}), the resonator; "
                "transpile for its target first"
            )
    elif coupled is not None and frozenset(qubits) not in coupled:
        raise PayloadRejected(
            f"gate {name!r} on qubits {list(qubits)}, which {target.name} does not couple; "
            "transpile for its target first"
        )


def _steps(circuit: QuantumCircuit) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield gate names with qubit numbers, blocks of control flow opened, barriers left out."""
    index = {qubit: number for number, qubit in enumerate(circuit.qubits)}
    for instruction in circuit.data:
        if instruction.name == "barrier":
            continue
        qubits = tuple(index[qubit] for qubit in instruction.qubits)
        yield instruction.name, qubits
        if instruction.is_control_flow():
            for block in instruction.operation.blocks:
                for name, inner in _steps(block):
                    yield name, tuple(qubits[i] for i in inner)
