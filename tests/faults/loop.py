"""A quantum loop that a test kills: each call depends on the one before, as in a variational one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from qiskit import QuantumCircuit
from qiskit.circuit import Parameter

from hpcqc import open_qpu, shutdown
from orchestrator.config.loading import load_site
from orchestrator.runs import Run, activate

CALLS = 25


def main(run: str, out: str) -> None:
    """Run the loop and write where it ended; every number follows from counts."""
    activate(Run(id=run, site=load_site()))
    circuit = QuantumCircuit(2)
    theta = Parameter("theta")
    circuit.ry(theta, 0)
    circuit.cx(0, 1)
    circuit.measure_all()
    sampler = open_qpu().sampler(seed=11)
    angle, path = 0.3, []
    print("started", flush=True)
    for number in range(CALLS):
        print(f"begun {number}", flush=True)
        job = sampler.run([(circuit, [angle])], shots=500)
        print(f"submitted {number}", flush=True)
        counts = job.result()[0].data.meas.get_counts()
        print(f"completed {number}", flush=True)
        angle += counts.get("11", 0) / 500 + 0.1
        path.append(round(angle, 6))
    Path(out).write_text(json.dumps(path))
    shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
