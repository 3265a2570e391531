"""A target as JSON, so that it can cross the border of a process or a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

from qiskit.transpiler import InstructionProperties
from qiskit.transpiler import Target as QiskitTarget

from backends.api import Calibration, QualityWindow, Target
from backends.gates import native_operation
from backends.meterings import metering_from_json, metering_to_json
from backends.timing import TimingModel

__all__ = ["target_from_json", "target_to_json"]

_NESTED = (
    "calibration",
    "metering",
    "timing",
    "quality_windows",
    "payload_kinds",
    "native",
    "sources",
)


def target_to_json(target: Target) -> dict[str, Any]:
    """Return everything a client needs to compile and check circuits, as JSON types.

    Of ``native`` only a Qiskit target travels: gates, places, durations and errors. ``sources``
    stay behind.
    """
    plain = {f.name: getattr(target, f.name) for f in fields(target) if f.name not in _NESTED}
    calibration = target.calibration
    return {
        **{name: _listed(value) for name, value in plain.items()},
        "payload_kinds": sorted(target.payload_kinds),
        "calibration": {
            "id": calibration.id,
            "taken_at": calibration.taken_at.isoformat(),
            "valid_until": _moment(calibration.valid_until),
        },
        "metering": metering_to_json(target.metering),
        "timing": None if target.timing is None else _fields(target.timing),
        "quality_windows": [_fields(window) for window in target.quality_windows],
        "native": _native(target.native) if isinstance(target.native, QiskitTarget) else None,
    }


def target_from_json(data: Mapping[str, Any]) -> Target:
    """Rebuild a target from `target_to_json`. Raises ``ValueError`` for anything else."""
    try:
        values = dict(data)
        calibration = values.pop("calibration")
        until = calibration["valid_until"]
        windows = values.pop("quality_windows")
        timing, native = values.pop("timing"), values.pop("native")
        return Target(
            payload_kinds=frozenset(values.pop("payload_kinds")),
            calibration=Calibration(
                id=calibration["id"],
                taken_at=datetime.fromisoformat(calibration["taken_at"]),
                valid_until=None if until is None else datetime.fromisoformat(until),
            ),
            metering=metering_from_json(values.pop("metering")),
            timing=None if timing is None else TimingModel(**timing),
            quality_windows=tuple(QualityWindow(**window) for window in windows),
            native=None if native is None else _qiskit_target(native),
            **{name: _frozen(value) for name, value in values.items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a target: {type(error).__name__}: {error}") from error


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
    }


def _qiskit_target(data: Mapping[str, Any]) -> QiskitTarget:
    target = QiskitTarget(description=data["description"], num_qubits=data["num_qubits"])
    for name, places in data["operations"].items():
        properties = {
            tuple(at): None
            if duration is None and error is None
            else InstructionProperties(duration=duration, error=error)
            for at, duration, error in places
        }
        target.add_instruction(native_operation(name), properties)
    return target


def _fields(value: Any) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in fields(value)}


def _moment(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
