"""Flows that several tests run."""

__all__ = ["FLOW", "LONG"]

FLOW = """
import numpy as np
from prefect import flow
from qiskit import QuantumCircuit
from hpcqc import classical, quantum


@classical
def angle(i):
    return np.pi / (i + 1)


@quantum
def share(qpu, theta, shots):
    circuit = QuantumCircuit(1)
    circuit.ry(theta, 0)
    circuit.measure_all()
    counts = qpu.sampler(seed=1).run([circuit], shots=shots).result()[0].data.meas.get_counts()
    return counts.get("1", 0) / shots


@flow
def shares(points: int = 3, shots: int = 100):
    print("the flow speaks")
    values = [f.result() for f in share.map(angle.map(list(range(points))), shots=shots)]
    return {
        "summary": [f"{points} shares"],
        "table": {"columns": ["i", "share"], "rows": [[i, v] for i, v in enumerate(values)]},
        "plot": {"title": "shares", "x": list(range(points)), "series": [{"y": values}]},
        "values": np.array(values),
    }
"""

# One quantum job that takes minutes to simulate.
LONG = """
from prefect import flow, get_run_logger
from qiskit import QuantumCircuit
from hpcqc import classical, quantum


@classical
def before():
    return 22


@quantum
def shots(qpu, width):
    circuit = QuantumCircuit(width)
    for _ in range(100):
        for qubit in range(width):
            circuit.rx(0.3, qubit)
            circuit.cx(qubit, (qubit + 1) % width)
    circuit.measure_all()
    return qpu.sampler(seed=1).run([circuit], shots=10).result()[0].data.meas.num_shots


@flow
def long():
    get_run_logger().warning("the flow has begun")
    return shots(before())
"""
