"""A target as JSON, so that it can cross the border of a process or a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any, get_type_hints

from qiskit.transpiler import InstructionProperties
from qiskit.transpiler import Target as QiskitTarget

from backends.api import QpuUnavailable, Target
from backends.gates import CONTROL_FLOW, native_operation
from backends.metering import metering_from_json, metering_to_json
from backends.recent import Recent

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["recent_target", "target_from_json", "target_to_json"]

# More than any device has, and than a simulator takes.
_MOST_QUBITS = 100_000
# Fields that Pydantic does not write: a formula by its kind, a Qiskit target in part, notes never.
_APART = ("metering", "native", "sources")
# The broker asks at each submission, on its event loop; devices change theirs within hours.
_FRESH_S = 1.0


@cache
def _adapters() -> Mapping[str, TypeAdapter[Any]]:
    from pydantic import TypeAdapter  # here, because simulators start without it

    hints = get_type_hints(Target)
    return {f.name: TypeAdapter(hints[f.name]) for f in fields(Target) if f.name not in _APART}


def target_to_json(target: Target) -> dict[str, Any]:
    """Return what a client needs to compile and check circuits; ``sources`` are left out."""
    stated = {
        name: adapter.dump_python(getattr(target, name), mode="json")
        for name, adapter in _adapters().items()
    }
    return {
        **stated,
        "payload_kinds": sorted(target.payload_kinds),
        "metering": metering_to_json(target.metering),
        "native": _native(target.native) if isinstance(target.native, QiskitTarget) else None,
    }


def target_from_json(data: Mapping[str, Any]) -> Target:
    """Rebuild a target from `target_to_json`. Raises ``ValueError`` for anything else."""
    try:
        _check_size(data)
        native, metering = data["native"], data["metering"]
        stated = {name: value for name, value in data.items() if name not in _APART}
        return Target(
            metering=metering_from_json(metering),
            native=None if native is None else _qiskit_target(native),
            **{name: _adapters()[name].validate_python(value) for name, value in stated.items()},
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"invalid target: {type(error).__name__}: {error}") from error


def _check_size(data: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for more qubits than any device has: what is made of them would not end."""
    for stated in (data, data.get("native") or {}):
        number = stated.get("num_qubits")
        if isinstance(number, int) and number > _MOST_QUBITS:
            raise ValueError(f"{number} qubits; expected at most {_MOST_QUBITS}")


def recent_target(read: Callable[[], Mapping[str, Any]]) -> Recent[Target]:
    """Return the target that ``read`` states as JSON, read again after a second."""

    def asked(_known: Target | None) -> Target:
        try:
            return target_from_json(read())
        except ValueError as error:
            raise QpuUnavailable(f"the backend's process states an {error}") from error

    return Recent(asked, _FRESH_S)


def _native(target: QiskitTarget) -> dict[str, Any]:
    operations = {}
    for name in target.operation_names:
        places = target[name]
        if places is None or None in places:
            continue  # control flow, which has no place
        operations[name] = [
            [list(at), getattr(known, "duration", None), getattr(known, "error", None)]
            for at, known in places.items()
        ]
    return {
        "description": target.description,
        "num_qubits": target.num_qubits,
        "operations": operations,
        "control_flow": [name for name in target.operation_names if name in CONTROL_FLOW],
        "dt_s": target.dt,
    }


def _qiskit_target(data: Mapping[str, Any]) -> QiskitTarget:
    target = QiskitTarget(
        description=data["description"], num_qubits=data["num_qubits"], dt=data.get("dt_s")
    )
    for name, places in data["operations"].items():
        properties = {
            tuple(at): None
            if duration is None and error is None
            else InstructionProperties(duration=duration, error=error)
            for at, duration, error in places
        }
        target.add_instruction(native_operation(name), properties)
    for name in data.get("control_flow", ()):
        target.add_instruction(CONTROL_FLOW[name], name=name)
    return target
