"""A circuit has the same native bytes in every process, or a continued run would send a new job."""

import subprocess
import sys

import pytest

COMPILED = """
import sys
from qiskit import QuantumCircuit
from qiskit.circuit.random import random_circuit
from backends.lowering import NativeCompiler
from backends.payloads import SamplerPayload
from backends.registry import describe

compiler = NativeCompiler(describe("aer", {"profile": sys.argv[1]}))
for seed in range(40):
    qubits = 2 + seed % 4
    if seed % 5:
        circuit = random_circuit(
            qubits, 1 + seed % 6, max_operands=2, seed=seed, measure=True, reset=False
        )
    else:  # all but two qubits interact with none
        circuit = QuantumCircuit(qubits)
        circuit.h(range(qubits))
        circuit.cx(0, 1)
        circuit.measure_all()
    native, places = compiler.compile(circuit)
    print(seed, SamplerPayload.coerce([native], shots=1, seed=1).digest, places)
"""


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["helmi", "piast-q", "vlq"])
def test_circuits_are_compiled_alike_in_every_process(profile) -> None:
    command = [sys.executable, "-c", COMPILED, profile]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = {run.communicate(timeout=300)[0] for run in runs}
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert len(printed) == 1
    assert printed.pop().count("\n") == 40
