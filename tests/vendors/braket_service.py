"""Amazon Braket's service for tests, in a thread: quantum tasks by client token, results in S3.

It speaks what botocore's descriptions of the services say, checks no signature, and runs circuits
on a state vector as soon as they arrive. It shares no code with the backend.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from qiskit import QuantumCircuit
from qiskit.circuit.library.standard_gates import get_standard_gate_name_mapping
from qiskit.primitives import StatevectorSampler

ARN = "arn:aws:braket:eu-north-1::device/qpu/test/Double"
_TASK = "arn:aws:braket:eu-north-1:000000000000:quantum-task/"
# Braket's name of a gate, and Qiskit's.
_NAMES = {
    "i": "id", "si": "sdg", "ti": "tdg", "v": "sx", "vi": "sxdg", "prx": "r", "phaseshift": "p",
    "U": "u", "cnot": "cx", "cphaseshift": "cp", "cv": "csx", "xx": "rxx", "yy": "ryy", "zz": "rzz",
}  # fmt: skip
_OPERATIONS = [*_NAMES, "x", "y", "z", "h", "s", "t", "rx", "ry", "rz", "cy", "cz", "swap", "iswap"]
_STEP = re.compile(r"(\w+)(?:\(([^)]*)\))? ((?:q\[\d+\](?:, )?)+);")


class BraketDouble:
    """The service's books. starts: how many tasks were made for each client token.

    faults: of the next starts, in order: ``lost`` does what was asked and closes the connection,
    ``throttled`` refuses, ``offline`` refuses, ``stuck`` accepts a task that never ends. more: what
    results state besides measurements. flood: results never end.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.more: dict[str, Any] = {}
        self.flood = False
        self.tasks: dict[str, dict[str, Any]] = {}
        self.by_token: dict[str, str] = {}
        self.requests: list[str] = []
        self.lock = threading.Lock()

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Return the status and the body of an answer; no body closes the connection."""
        parts = [unquote(part) for part in path.split("?", maxsplit=1)[0].strip("/").split("/")]
        with self.lock:
            self.requests.append(f"{method} {parts[0]}")
            match method, parts:
                case "GET", ["device", arn]:
                    return (200, _device()) if arn == ARN else _error(404, "ResourceNotFound")
                case "POST", ["quantum-task"]:
                    return self._created(body)
                case "GET", ["quantum-task", arn]:
                    return self._told(arn)
                case "PUT", ["quantum-task", arn, "cancel"]:
                    return self._cancelled(arn)
                case "POST", ["quantum-tasks"]:
                    return 200, {"quantumTasks": self._found(body["filters"])}
                case "GET", ["results", *key]:
                    return self._result("/".join(key))
        return _error(404, "ResourceNotFound")

    def _created(self, body: Any) -> tuple[int, Any]:
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "throttled":
            return _error(429, "Throttling")
        if fault == "offline":
            return _error(424, "DeviceOffline")
        if fault == "denied":
            return _error(403, "AccessDenied")
        token = body["clientToken"]
        if token not in self.by_token:
            task = f"{_TASK}{len(self.tasks)}"
            self.by_token[token] = task
            self.tasks[task] = {
                "quantumTaskArn": task,
                "status": "RUNNING" if fault == "stuck" else "COMPLETED",
                "deviceArn": body["deviceArn"],
                "deviceParameters": "{}",
                "shots": body["shots"],
                "outputS3Bucket": body["outputS3Bucket"],
                "outputS3Directory": f"{body['outputS3KeyPrefix']}/{len(self.tasks)}",
                "createdAt": datetime.now(UTC).isoformat(),
                "tags": body["tags"],
                "source": json.loads(body["action"])["source"],
            }
        return (0, None) if fault == "lost" else (201, {"quantumTaskArn": self.by_token[token]})

    def _told(self, arn: str) -> tuple[int, Any]:
        if arn not in self.tasks:
            return _error(404, "ResourceNotFound")
        return 200, {name: value for name, value in self.tasks[arn].items() if name != "source"}

    def _cancelled(self, arn: str) -> tuple[int, Any]:
        if self.tasks[arn]["status"] != "RUNNING":
            return _error(409, "Conflict")
        self.tasks[arn]["status"] = "CANCELLED"
        return 200, {"quantumTaskArn": arn, "cancellationStatus": "CANCELLING"}

    def _found(self, filters: list[dict[str, Any]]) -> list[Any]:
        wanted = {one["name"]: one["values"] for one in filters}
        return [
            {name: task[name] for name in ("quantumTaskArn", "status", "deviceArn", "shots")}
            | {name: task[name] for name in ("outputS3Bucket", "outputS3Directory", "createdAt")}
            for task in self.tasks.values()
            if all(
                task["tags"].get(name.removeprefix("tags:")) in values
                for name, values in wanted.items()
                if name.startswith("tags:")
            )
        ]

    def _result(self, key: str) -> tuple[int, Any]:
        for task in self.tasks.values():
            if key == f"{task['outputS3Directory']}/results.json":
                measured, rows = _measured(task["source"], task["shots"])
                return 200, {"measuredQubits": measured, "measurements": rows, **self.more}
        return _error(404, "NoSuchKey")


@contextmanager
def braket_double() -> Iterator[tuple[BraketDouble, str]]:
    """Serve on loopback while the block runs; give the books and the address."""
    double = BraketDouble()

    class Requests(BaseHTTPRequestHandler):
        def _any(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            sent = self.rfile.read(size)
            status, body = double.answer(
                self.command, self.path, json.loads(sent) if sent else None
            )
            if body is None:
                self.close_connection = True
                return
            content = json.dumps(body).encode()
            self.send_response(status)
            if double.flood and "measurements" in body:
                self.end_headers()
                self.close_connection = True
                with suppress(ConnectionError):
                    while double.flood:
                        self.wfile.write(content)
                return
            if "__type" in body:
                self.send_header("x-amzn-ErrorType", body["__type"])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = _any  # noqa: N815  # names that the class prescribes

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield double, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _error(status: int, name: str) -> tuple[int, Any]:
    return status, {"__type": f"{name}Exception", "message": f"{name}, as a test asked for"}


def _device() -> dict[str, Any]:
    capabilities = {
        "service": {"shotsRange": [1, 1000], "updatedAt": "2026-11-01T00:00:00"},
        "action": {"braket.ir.openqasm.program": {"supportedOperations": _OPERATIONS}},
        "paradigm": {"qubitCount": 8},
    }
    return {
        "deviceArn": ARN,
        "deviceName": "Double",
        "providerName": "test",
        "deviceType": "QPU",
        "deviceStatus": "ONLINE",
        "deviceCapabilities": json.dumps(capabilities),
    }


def _measured(source: str, shots: int) -> tuple[list[int], list[list[int]]]:
    """Return the measured qubits in order, and a row of their values for each shot."""
    width = int(re.search(r"qubit\[(\d+)\] q;", source)[1])
    circuit = QuantumCircuit(width, width)
    gates = get_standard_gate_name_mapping()
    measured = sorted(int(q) for q in re.findall(r"c\[\d+\] = measure q\[(\d+)\];", source))
    steps = [_STEP.fullmatch(line) for line in source.splitlines()]
    for name, angles, qubits in [step.groups("") for step in steps if step]:
        gate = gates[_NAMES.get(name, name)].base_class(
            *map(float, filter(None, angles.split(",")))
        )
        circuit.append(gate, [int(q) for q in re.findall(r"\d+", qubits)])
    circuit.measure(range(width), range(width))
    bits = StatevectorSampler(seed=1).run([circuit], shots=shots).result()[0].data.c
    rows = bits.to_bool_array(order="little")
    return measured, [[int(row[qubit]) for qubit in measured] for row in rows]
