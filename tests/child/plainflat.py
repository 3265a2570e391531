"""A device by flat circuits that needs no vendor: Qiskit's state vectors, one point after another."""

from __future__ import annotations

from collections import Counter

from qiskit import QuantumCircuit
from qiskit.circuit.library.standard_gates import get_standard_gate_name_mapping
from qiskit.primitives import StatevectorSampler

from backends.devices.api import bound_steps, point_seed
from backends.devices.backend import device_backend
from backends.devices.local import LocalDevice

GATE = get_standard_gate_name_mapping()


class Factory:
    """Makes it in this process, or in a child."""

    def __call__(self, options, *, state_dir):
        return device_backend(self.device(options, state_dir=state_dir))

    def device(self, _options, *, state_dir):
        del state_dir
        return LocalDevice(Statevectors())


class Statevectors:
    name = "plainflat"
    refusal = None

    def target(self):
        return {
            "name": self.name,
            "num_qubits": 6,
            "native_gates": ["rx", "rz", "cz"],
            "coupling": [[q, q + 1] for q in range(5)],
            "mid_circuit_measurement": False,
            "max_shots": 5000,
            "calibration": {"id": "exact", "taken_at": "2026-01-01T00:00:00Z"},
        }

    def sample(self, pub, point, stopping):
        circuit = QuantumCircuit(pub.num_qubits, pub.num_clbits)
        for name, qubits, clbits, angles in bound_steps(pub, point):
            stopping.check()
            if name == "measure":
                circuit.measure(qubits[0], clbits[0])
            elif name in GATE:
                circuit.append(GATE[name].base_class(*angles), qubits)
        sampler = StatevectorSampler(seed=point_seed(pub, point))
        data = sampler.run([circuit], shots=pub.shots).result()[0].data
        return Counter(data.c.get_bitstrings())


create = Factory()
