"""A simulator of Braket's SDK in this process: its target, and its runs as tasks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from braket.devices import LocalSimulator
from braket.ir.openqasm import Program

from backends.braket.openqasm import GATES, openqasm
from backends.devices.api import FlatPub, bound_steps
from backends.devices.local import Stopping
from backends.devices.outcomes import spread, written_bits

__all__ = ["BraketSimulator"]


class BraketSimulator:
    """See ``backends.devices.local.PointSampler``. Runs are not seeded: the SDK takes no seed."""

    def __init__(self, simulator: str) -> None:
        self.name = simulator
        self.refusal: str | None = None
        self._simulator = LocalSimulator(simulator)
        self._opened = datetime.now(UTC).isoformat()

    def target(self) -> Mapping[str, Any]:
        """Return the simulator's width and gates."""
        release = version("amazon-braket-default-simulator")
        return {
            "name": self.name,
            "num_qubits": self._simulator.properties.paradigm.qubitCount,
            "native_gates": list(GATES),
            "mid_circuit_measurement": False,
            "calibration": {"id": f"{self.name}-{release}", "taken_at": self._opened},
        }

    def sample(self, pub: FlatPub, point: int, stopping: Stopping) -> Mapping[str, int]:
        """Run one point, to its end: the SDK cannot stop it."""
        del stopping
        steps = list(bound_steps(pub, point))
        written = written_bits(steps)
        places = {bit: place for place, bit in enumerate(written)}
        program = Program(source=openqasm(steps, places))
        counts = self._simulator.run(program, shots=pub.shots).result().measurement_counts
        # Braket prints classical bit 0 first.
        return spread(
            {outcome[::-1]: counts[outcome] for outcome in counts}, written, pub.num_clbits
        )
