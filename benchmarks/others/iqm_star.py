"""IQM's own transpiler on a star of 23 qubits: OpenQASM texts in, a line each; times and gates out."""

import json
import sys
import time

from iqm.qiskit_iqm import transpile_to_IQM
from iqm.qiskit_iqm.fake_backends.iqm_fake_backend import IQMErrorProfile, IQMFakeBackend
from iqm.station_control.interface.models import StaticQuantumArchitecture
from qiskit import qasm2

QUBITS = [f"QB{number}" for number in range(1, 24)]
EVERYWHERE = ["CR1", *QUBITS]
STAR = IQMFakeBackend(
    StaticQuantumArchitecture(
        dut_label="star",
        qubits=QUBITS,
        computational_resonators=["CR1"],
        connectivity=[("CR1", qubit) for qubit in QUBITS],
    ),
    # The numbers are those of the client's fake star of six qubits.
    IQMErrorProfile(
        t1s=dict.fromkeys(EVERYWHERE, 35000.0),
        t2s=dict.fromkeys(EVERYWHERE, 33000.0),
        single_qubit_gate_depolarizing_error_parameters={"prx": dict.fromkeys(QUBITS, 0.0002)},
        two_qubit_gate_depolarizing_error_parameters={
            "cz": {(qubit, "CR1"): 0.0128 for qubit in QUBITS},
            "move": {(qubit, "CR1"): 0.0 for qubit in QUBITS},
        },
        single_qubit_gate_durations={"prx": 40.0},
        two_qubit_gate_durations={"cz": 120.0, "move": 96.0},
        readout_errors={qubit: {"0": 0.02, "1": 0.02} for qubit in QUBITS},
        name="star",
    ),
    name="star",
)

for line in sys.stdin:
    circuits = [
        qasm2.loads(text, custom_instructions=qasm2.LEGACY_CUSTOM_INSTRUCTIONS)
        for text in json.loads(line)
    ]
    start = time.perf_counter()
    native = [transpile_to_IQM(circuit, STAR) for circuit in circuits]
    took_s = time.perf_counter() - start
    gates = [circuit.count_ops() for circuit in native]
    found = {name: sum(one.get(name, 0) for one in gates) for name in ("cz", "move", "r")}
    print(json.dumps({"took_s": took_s, "gates": found}), flush=True)
