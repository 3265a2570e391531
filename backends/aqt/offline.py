"""AQT's offline simulators, as its own provider has them, in this process."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from qiskit_aqt_provider import AQTProvider

from backends.devices.api import FlatPub
from backends.devices.circuits import counts_of
from backends.devices.local import Stopping

__all__ = ["AqtOffline"]

# The provider refuses more.
_MOST_SHOTS = 2000


class AqtOffline:
    """See ``backends.devices.local.PointSampler``. Runs are not seeded."""

    refusal: str | None = None

    def __init__(self, simulator: str) -> None:
        self.name = f"aqt-offline-{simulator}"
        self._backend: Any = getattr(AQTProvider().offline, simulator)()
        self._opened = datetime.now(UTC).isoformat()

    def target(self) -> Mapping[str, Any]:
        """Return the simulator's ions and gates; all of them are coupled."""
        return {
            "name": self.name,
            "num_qubits": self._backend.num_qubits,
            "native_gates": [
                name for name in self._backend.target.operation_names if name != "measure"
            ],
            "mid_circuit_measurement": False,
            "max_shots": _MOST_SHOTS,
            "calibration": {
                "id": f"{self.name}-{version('qiskit-aqt-provider')}",
                "taken_at": self._opened,
            },
        }

    def sample(self, pub: FlatPub, point: int, stopping: Stopping) -> Mapping[str, int]:
        """Run one point, to its end: the provider cannot stop it."""
        del stopping
        return counts_of(self._backend, pub, point)
