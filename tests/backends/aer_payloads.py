"""Work for Aer in tests of its faults."""

from qiskit import QuantumCircuit

from backends.payloads import SamplerPayload

__all__ = ["bell", "long_payload"]


def bell(shots=200, seed=5, repeats=1):
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return SamplerPayload.coerce([circuit] * repeats, shots=shots, seed=seed)


def long_payload(shots=4000, seed=5):
    """Seconds of work for one core: a noiseless circuit reset in the middle runs shot by shot."""
    circuit = QuantumCircuit(12)
    for layer in range(6):
        for qubit in range(12):
            circuit.ry(0.1 * (qubit + layer + 1), qubit)
        for qubit in range(11):
            circuit.cx(qubit, qubit + 1)
        circuit.reset(layer)
    circuit.measure_all()
    return SamplerPayload.coerce([circuit], shots=shots, seed=seed)
