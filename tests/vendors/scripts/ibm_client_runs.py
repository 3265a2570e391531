"""Run jobs with IBM's own client: arguments URL, TOKEN_FILE, INSTANCE; prints JSON."""

import json
import os
import sys
from pathlib import Path

url, token_file, instance = sys.argv[1:]
# The client's search for instances asks a host that cannot be given; this leaves the search out.
os.environ |= {"IAM_URL": url, "QISKIT_FUNCTIONS_EXPERIMENTAL": "1"}

import numpy as np  # noqa: E402
from qiskit import QuantumCircuit  # noqa: E402
from qiskit.circuit import Parameter  # noqa: E402
from qiskit.transpiler import generate_preset_pass_manager  # noqa: E402
from qiskit_ibm_runtime import QiskitRuntimeService, Session  # noqa: E402
from qiskit_ibm_runtime.executor_sampler import Sampler  # noqa: E402

service = QiskitRuntimeService(
    channel="ibm_quantum_platform",
    token=json.loads(Path(token_file).read_text())["access_token"],
    instance=instance,
    url=url,
    url_resolver=lambda *_: f"{url}/api/v1",
)
backend = service.backend("ibm_fez")
passes = generate_preset_pass_manager(optimization_level=1, backend=backend)


def ran(mode, pubs, tag):
    sampler = Sampler(mode=mode, options={"environment": {"job_tags": [tag]}})
    return sampler.run(pubs, shots=1000)


bell = QuantumCircuit(2)
bell.h(0)
bell.cx(0, 1)
bell.measure_all()
flipped = QuantumCircuit(3)
flipped.x(0)
flipped.measure_all()
angle = Parameter("a")
turned = QuantumCircuit(1)
turned.rx(angle, 0)
turned.measure_all()

first = ran(backend, [passes.run(bell), passes.run(flipped)], "bell")
results = first.result()
with Session(backend=backend) as session:
    values = np.linspace(0, np.pi / 2, 10)[:, None]
    second = ran(session, [(passes.run(turned), values)], "turned")
    points = second.result()[0].data.meas
print(
    json.dumps(
        {
            "qubits": backend.num_qubits,
            "gates": sorted(backend.configuration().basis_gates),
            "t1_s": backend.target.qubit_properties[0].t1,
            "bell": results[0].data.meas.get_counts(),
            "flipped": results[1].data.meas.get_counts(),
            "turned": [points.get_counts(place) for place in range(10)],
            "usage_s": [first.usage(), second.usage()],
            "found": [job.job_id() for job in service.jobs(job_tags=["bell"])],
            "bell_job": first.job_id(),
            "in_session": second.session_id == session.session_id,
        }
    )
)
