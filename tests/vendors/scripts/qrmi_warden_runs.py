"""Runs a sequence once and ten times with qrmi against a Warden: URL, file of the sequence."""

import json
import os
import sys
import time
from pathlib import Path

url, file = sys.argv[1:]
name = "atoms"
os.environ[f"{name}_QRMI_WARDEN_URL"] = url
os.environ["QRMI_JOB_UID"] = str(os.getuid())
os.environ["QRMI_JOB_ID"] = "17"

from qrmi import Payload, QuantumResource, ResourceType, TaskStatus  # noqa: E402

OPEN = (TaskStatus.Queued, TaskStatus.Running)
sequence = Path(file).read_text("utf-8")
resource = QuantumResource(name, ResourceType.PasqalLocal)
accessible = str(resource.status().status)
os.environ[f"{name}_QRMI_JOB_ACQUISITION_TOKEN"] = resource.acquire()
resource = QuantumResource(name, ResourceType.PasqalLocal)
described = json.loads(resource.target().value)
described = described[0] if isinstance(described, list) else described
device = json.loads(described["specs"]) if "specs" in described else described


def start():
    return resource.task_start(Payload.PasqalCloud(sequence=sequence, job_runs=100))


tasks = [start()]
tasks += [start() for _ in range(10)]
for task in tasks:
    while resource.task_status(task) in OPEN:
        time.sleep(0.05)
found = {
    "accessible": "Online" in accessible,
    "device": device["name"],
    "statuses": [str(resource.task_status(task)).rpartition(".")[2] for task in tasks],
    "counters": [json.loads(resource.task_result(task).value)["counter"] for task in tasks],
}
print(json.dumps(found))
