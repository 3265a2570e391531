"""What the emulator accepts, stated without Pulser (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from backends.analog.device import RydbergDevice

__all__ = ["description"]

_BUILT = "2026-01-01T00:00:00+00:00"


def description(device: RydbergDevice, most_atoms: int, release: str) -> Mapping[str, Any]:
    """Return the target of an emulator of a device, as JSON. release: of Pulser's simulator."""
    return {
        "name": device.name,
        "num_qubits": min(most_atoms, device.max_atoms or most_atoms),
        "payload_kinds": ["analog"],
        "mid_circuit_measurement": False,
        "coupling_class": "interactive",
        "max_shots": device.max_runs,
        "calibration": {"id": f"qutip-{release}", "taken_at": _BUILT},
        "rydberg": asdict(device),
    }
