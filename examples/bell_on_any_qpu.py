"""A plain Qiskit script; only the line that makes its sampler differs.

python examples/bell_on_any_qpu.py [QPU]        the names are in `hpcqc qpu list`
"""

import sys

from qiskit import QuantumCircuit

from hpcqc import Sampler, open_qpu, shutdown


def main() -> None:
    bell = QuantumCircuit(2)
    bell.h(0)
    bell.cx(0, 1)
    bell.measure_all()

    qpu = open_qpu(sys.argv[1] if len(sys.argv) > 1 else None)
    sampler = Sampler(qpu, seed=7)  # was: StatevectorSampler(seed=7)

    counts = sampler.run([bell], shots=1000).result()[0].data.meas.get_counts()
    for bits, count in sorted(counts.items()):
        print(f"{bits}  {count}")


if __name__ == "__main__":
    try:
        main()
    except ValueError as mistake:  # a QPU the site does not have, say
        sys.exit(str(mistake))
    finally:
        shutdown()
