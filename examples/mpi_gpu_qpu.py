"""An MPI program on two nodes, a stage with a GPU and a quantum stage, in one flow on Slurm.

Run it with: hpcqc run examples/mpi_gpu_qpu.py --site examples/sites/slurm.toml

It needs `mpicc`, such as Debian's libopenmpi-dev has it, and a partition with a GPU.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from prefect import flow
from qiskit import QuantumCircuit

from hpcqc import Qpu, classical, quantum, run_program

SOURCE = (Path(__file__).parent / "integral.c").read_text()


@classical(nodes=2, tasks_per_node=2)
def integrate(intervals: int) -> tuple[float, int]:
    """Return the integral, and by how many processes it was computed."""
    with TemporaryDirectory(dir=Path.cwd()) as folder:  # that of the job, which its nodes share
        source, program = Path(folder, "integral.c"), Path(folder, "integral")
        source.write_text(SOURCE)
        run_program(["mpicc", "-O2", "-o", program, source], tasks=1)
        result = run_program([program, str(intervals)])
    value, _, processes, _ = result.output.read_text().split()
    return float(value), int(processes)


@classical(gpus=1)
def angle(pi: float) -> tuple[float, int]:
    """Return a third of pi, and how many GPUs were there; a real stage would compute on them."""
    return pi / 3, int(os.environ.get("SLURM_GPUS_ON_NODE", "0"))


@quantum
def rotate(qpu: Qpu, theta: float) -> float:
    """Return how often a qubit that is rotated by an angle is measured as 1."""
    circuit = QuantumCircuit(1)
    circuit.ry(theta, 0)
    circuit.measure_all()
    counts = qpu.sampler(seed=7).run([circuit], shots=4000).result()[0].data.meas.get_counts()
    return counts.get("1", 0) / 4000


@flow
def mpi_gpu_qpu(intervals: int = 1_000_000) -> dict[str, float]:
    """Integrate on two nodes, visit a GPU, and measure sin²(π/6), which is a quarter."""
    pi, processes = integrate(intervals)
    theta, gpus = angle(pi)
    return {"pi": pi, "processes": processes, "gpus": gpus, "ones": rotate(theta)}
