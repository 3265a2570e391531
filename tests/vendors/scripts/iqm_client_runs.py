"""Runs circuits with iqm-client against a server: URL, name of the computer, token file."""

import json
import sys
from pathlib import Path

from iqm.iqm_client import IQMClient
from iqm.qiskit_iqm import IQMProvider
from qiskit import QuantumCircuit, transpile

url, computer, token_file = sys.argv[1:]
token = json.loads(Path(token_file).read_text(encoding="utf-8"))["access_token"]
client = IQMClient.from_url(url, token=token, quantum_computer=computer)
metrics = client.get_calibration_set()
chip = client.get_static_quantum_architecture()
client.get_about()
client.get_calibration_quality_metrics()

# With a file of tokens, which the client reads and checks by itself.
backend = IQMProvider(url, tokens_file=token_file, quantum_computer=computer).get_backend()

bell = QuantumCircuit(2)
bell.h(0)
bell.cx(0, 1)
bell.measure_all()

flipped = QuantumCircuit(3)
flipped.x(0)
flipped.measure_all()

turned = []
for step in range(10):
    circuit = QuantumCircuit(1)
    circuit.rx(step * 3.141592653589793 / 9, 0)
    circuit.measure_all()
    turned.append(circuit)


def counts(circuits, shots):
    job = backend.run(transpile(circuits, backend, seed_transpiler=1), shots=shots)
    return job.result().get_counts()


print(
    json.dumps(
        {
            "qubits": len(chip.qubits),
            "usable": backend.num_qubits,
            "calibration": str(metrics.observation_set_id),
            "healthy": client.get_health()["healthy"],
            "bell": counts(bell, 1000),
            "flipped": counts(flipped, 1000),
            "turned": counts(turned, 1000),
        }
    )
)
