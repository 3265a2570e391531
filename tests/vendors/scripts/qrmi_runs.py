"""Runs circuits with qrmi against an IQM Server: URL, name of the computer, token file, a tag."""

import json
import math
import os
import sys
import time
from pathlib import Path

url, computer, token_file, tag = sys.argv[1:]
token = json.loads(Path(token_file).read_text(encoding="utf-8"))["access_token"]
os.environ[f"{computer}_QRMI_IQM_ISA_ENDPOINT"] = url
os.environ[f"{computer}_QRMI_IQM_ISA_TOKEN"] = token

from qrmi import Payload, QuantumResource, ResourceType, TaskStatus  # noqa: E402

OPEN = (TaskStatus.Queued, TaskStatus.Running)


def gate(name, *locus, **arguments):
    return {"name": name, "locus": list(locus), "args": arguments}


def circuit(name, *instructions):
    return {"name": name, "instructions": instructions, "metadata": None}


def measured(*locus):
    return gate("measure", *locus, key="m")


half = {"angle": math.pi / 2, "phase": math.pi / 2}
bell = circuit(
    "bell",
    gate("prx", "QB1", **half),
    gate("prx", "QB2", **half),
    gate("move", "QB1", "CR1"),
    gate("cz", "QB2", "CR1"),
    gate("move", "QB1", "CR1"),
    gate("prx", "QB2", angle=-math.pi / 2, phase=math.pi / 2),
    measured("QB1", "QB2"),
)
turned = [
    circuit(
        f"turned-{step}",
        gate("prx", "QB1", angle=step * math.pi / 9, phase=0.0),
        measured("QB1"),
    )
    for step in range(10)
]

resource = QuantumResource(computer, ResourceType.IQMServer)


def counts(circuits):
    job = json.dumps({"circuits": circuits, "shots": 1000})
    task = resource.task_start(Payload.IQMServer(job, "circuit", False, tag))
    while resource.task_status(task) in OPEN:
        time.sleep(0.05)
    assert resource.task_status(task) == TaskStatus.Completed
    stated = json.loads(resource.task_result(task).value)["measurement_counts"]
    return [one["counts"] for one in stated]


print(
    json.dumps(
        {
            "healthy": resource.status().healthy,
            "target": json.loads(resource.target().value),
            "bell": counts([bell]),
            "turned": counts(turned),
        }
    )
)
