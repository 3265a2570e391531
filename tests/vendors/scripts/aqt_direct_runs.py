"""Runs circuits with qiskit-aqt-provider by direct access: URL, token file, shots."""

import json
import sys
from pathlib import Path

from qiskit import QuantumCircuit, transpile
from qiskit_aqt_provider import AQTProvider

url, token_file, shots = sys.argv[1:]
token = json.loads(Path(token_file).read_text(encoding="utf-8"))["access_token"]

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

with AQTProvider() as provider:
    backend = provider.direct_access().get_resource(url, token)

    def counts(circuits):
        job = backend.run(transpile(circuits, backend, seed_transpiler=1), shots=int(shots))
        return job.result().get_counts()

    print(
        json.dumps(
            {
                "name": backend.name,
                "qubits": backend.num_qubits,
                "bell": counts(bell),
                "flipped": counts(flipped),
                "turned": counts(turned),
            }
        )
    )
