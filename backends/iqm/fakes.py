"""IQM's fake devices, simulated in this process by IQM's own client."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from backends.devices.api import FlatPub
from backends.devices.circuits import counts_of
from backends.devices.local import Stopping

__all__ = ["IqmFake"]

_PACKAGE = "iqm.qiskit_iqm"
_GATES = {"prx": "r", "cz": "cz", "move": "move"}


class IqmFake:
    """See ``backends.devices.local.PointSampler``. Runs are not seeded: the client takes no seed."""

    refusal: str | None = None

    def __init__(self, fake: str) -> None:
        self.name = f"iqm-fake-{fake}"
        _leave_out_what_is_not_used()
        module = import_module(f"{_PACKAGE}.fake_backends.fake_{fake}")
        self._gates = {"move": import_module(f"{_PACKAGE}.move_gate").MoveGate}
        self._backend: Any = getattr(module, f"IQMFake{fake.capitalize()}")()
        self._opened = datetime.now(UTC).isoformat()

    def target(self) -> Mapping[str, Any]:
        """Return what the device's architecture states."""
        stated = self._backend.architecture
        star = bool(stated.computational_resonators)
        gates = [name for wire, name in _GATES.items() if wire in stated.gates]
        return {
            "name": self.name,
            "num_qubits": len(stated.qubits),
            "native_gates": gates,
            "coupling": None if star else self._pairs(stated),
            "resonator": len(stated.qubits) if star else None,
            "mid_circuit_measurement": False,
            "calibration": {
                "id": f"{self.name}-{version('iqm-client')}",  # the client states none
                "taken_at": self._opened,
            },
        }

    def sample(self, pub: FlatPub, point: int, stopping: Stopping) -> Mapping[str, int]:
        """Run one point, to its end: the client cannot stop it."""
        del stopping
        return counts_of(self._backend, pub, point, self._gates)

    def _pairs(self, stated: Any) -> list[tuple[int, ...]]:
        implementations = stated.gates["cz"].implementations.values()
        loci = {locus for implementation in implementations for locus in implementation.loci}
        number = self._backend.qubit_name_to_index
        return sorted({tuple(sorted(number(name) for name in locus)) for locus in loci})


def _leave_out_what_is_not_used() -> None:
    """Keep IQM's package from making all of its fake devices, which takes a minute.

    Its ``__init__`` imports everything; modules of an empty package are imported one by one.
    """
    if _PACKAGE in sys.modules:
        return
    root = Path(next(iter(import_module("iqm").__path__))) / "qiskit_iqm"
    for name, folder in ((_PACKAGE, root), (f"{_PACKAGE}.fake_backends", root / "fake_backends")):
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    whole: Any = sys.modules[_PACKAGE]
    whole.MoveGate = import_module(f"{_PACKAGE}.move_gate").MoveGate
