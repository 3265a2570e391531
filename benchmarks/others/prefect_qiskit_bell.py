"""A warm Bell sampler call through prefect-qiskit and through bare Aer (its own environment)."""

import asyncio
import inspect
import json
import statistics
import time

from prefect import flow
from qiskit import QuantumCircuit
from qiskit_aer.primitives import SamplerV2

ROUNDS = 15


def bell() -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


@flow
def measure() -> dict:
    from prefect_qiskit.runtime import QuantumRuntime
    from prefect_qiskit.vendors import QiskitAerCredentials

    runtime = QuantumRuntime(
        resource_name="aer_simulator",
        credentials=QiskitAerCredentials(
            num_qubits=2, basis_gates=["h", "cx"], noise=False, coupling_map_type="full"
        ),
    )
    circuit = bell()
    bare_sampler = SamplerV2()

    def theirs() -> None:
        result = runtime.sampler([(circuit, None, 1024)])
        if inspect.isawaitable(result):
            asyncio.run(result)

    def bare() -> None:
        bare_sampler.run([circuit], shots=1024).result()

    times: dict[str, list[float]] = {"theirs": [], "bare": []}
    theirs()
    bare()
    for _ in range(ROUNDS):
        for name, call in (("theirs", theirs), ("bare", bare)):
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    print(json.dumps(measure()))
