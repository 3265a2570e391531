"""One QDMI device: what it can do, as a target, and its jobs, as tasks."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from mqt.core import qdmi

from backends.devices.api import BoundStep, FlatJob, FlatPub, FlatResult, bound_steps, point_seed
from backends.devices.runner import Stopping, TaskRunner
from backends.errors import PayloadRejected, QpuUnavailable, TaskFailed
from backends.plugins import PluginUnusable
from backends.qdmi.factory import QdmiOptions
from backends.qdmi.openqasm import GATES, openqasm
from backends.suggestions import did_you_mean

__all__ = ["QdmiDevice", "open_device"]

# A simulator has as many qubits as memory holds; circuits are compiled for so many.
_DEFAULT_QUBITS = 32
_LARGEST_SEED = 2**31 - 1
# Operations that Qiskit calls otherwise.
_CALLED = {"i": "id"}
# Units of QDMI 1.4 for durations.
_UNITS_S = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "ps": 1e-12}


def open_device(options: QdmiOptions) -> QdmiDevice:
    """Open a device. Raises `PluginUnusable` for an unknown id, `QpuUnavailable` if it fails."""
    known = qdmi.device_ids()
    if options.device not in known:
        raise PluginUnusable(
            f"no QDMI device {options.device!r}; mqt-core knows: {', '.join(known)}"
            f"{did_you_mean(options.device, known)}"
        )
    session = {
        name: getattr(options, name)
        for name in ("token", "auth_file", "auth_url", "username", "password", "project_id")
        if getattr(options, name) is not None
    }
    try:
        device = qdmi.open_device(options.device, **session)
    except (IndexError, RuntimeError, ValueError) as error:
        raise QpuUnavailable(f"QDMI device {options.device!r} cannot be opened: {error}") from error
    return QdmiDevice(device, options)


class QdmiDevice:
    """See ``backends.devices.api.FlatDevice``."""

    def __init__(self, device: Any, options: QdmiOptions) -> None:
        self._device, self._id = device, options.device
        self._runs = qdmi.ProgramFormat.QASM2 in device.supported_program_formats()
        self._target = _target(device, options)
        self._runner = TaskRunner(f"qdmi-{options.device}", self._run)

    def target(self) -> Mapping[str, Any]:
        """Return what the device states."""
        return self._target

    def start(self, job: FlatJob, tag: str) -> str:
        """Start a task: one QDMI job for each circuit and point, one after the other."""
        if not self._runs:
            raise PayloadRejected(
                f"QDMI device {self._id!r} takes no OpenQASM 2: it describes a machine, so that "
                "circuits can be compiled for it; choose another device"
            )
        return self._runner.start(job, tag)

    def find(self, tag: str) -> str | None:
        """Return the task of a tag."""
        return self._runner.find(tag)

    def status(self, task: str) -> str:
        """Return a task's state."""
        return self._runner.status(task)

    def wait(self, task: str, timeout_s: float) -> str:
        """Return a task's state when it has ended, or when the time is up."""
        return self._runner.wait(task, timeout_s)

    def result(self, task: str) -> FlatResult:
        """Return a completed task's result."""
        return self._runner.result(task)

    def stop(self, task: str) -> None:
        """Cancel a task."""
        self._runner.stop(task)

    def close(self) -> None:
        """Stop all tasks."""
        self._runner.close()

    def _run(self, job: FlatJob, stopping: Stopping) -> FlatResult:
        started = time.monotonic()
        counts = tuple(
            tuple(self._counts(pub, point, stopping) for point in range(len(pub.angles)))
            for pub in job.pubs
        )
        return FlatResult(
            counts=counts,
            qpu_seconds=time.monotonic() - started,
            metadata={"device": self._id, "calibration_id": self._target["calibration"]["id"]},
        )

    def _counts(self, pub: FlatPub, point: int, stopping: Stopping) -> dict[str, int]:
        stopping.check()
        steps = list(bound_steps(pub, point))
        written = _written(steps)
        program = openqasm(pub.num_qubits, steps, {bit: i for i, bit in enumerate(written)})
        seed = point_seed(pub, point)
        chosen = {} if seed is None else {"custom1": seed % _LARGEST_SEED + 1}
        job = self._device.submit_job(program, qdmi.ProgramFormat.QASM2, pub.shots, **chosen)
        stopping.cancel_with(job.cancel)
        job.wait()
        stopping.cancel_with(None)
        stopping.check()
        if job.check().name != "DONE":
            raise TaskFailed(f"its QDMI job ended in {job.check().name}")
        return _spread(job.get_counts(), written, pub.num_clbits)


def _written(steps: Iterable[BoundStep]) -> list[int]:
    """Return the classical bits that are measured, in order."""
    return sorted({clbits[0] for name, _, clbits, _ in steps if name == "measure"})


def _spread(counts: Mapping[str, int], written: Sequence[int], width: int) -> dict[str, int]:
    """Put the measured bits where they belong; all others are 0.

    >>> _spread({"10": 7}, [0, 2], 4)
    {'0100': 7}
    """
    if len(written) == width:
        return dict(counts)
    spread = {}
    for outcome, number in counts.items():
        bits = ["0"] * width
        for bit, value in zip(written, reversed(outcome), strict=True):
            bits[width - 1 - bit] = value
        spread["".join(bits)] = number
    return spread


def _target(device: Any, options: QdmiOptions) -> dict[str, Any]:
    pairs = device.coupling_map()
    qubits = device.qubits_num()
    if pairs is None:  # all to all
        qubits = min(qubits, options.qubits or _DEFAULT_QUBITS)
    operations = {_CALLED.get(one.name(), one.name()): one for one in device.operations()}
    places = {tuple(sorted((a.index(), b.index()))) for a, b in pairs or ()}
    return {
        "name": options.device,
        "num_qubits": qubits,
        "native_gates": [name for name in operations if name in GATES],
        "coupling": None if pairs is None else sorted(places),
        "mid_circuit_measurement": False,
        "max_concurrent_tasks": 1,
        "native": None if pairs is None else _properties(device, qubits, operations),
        "calibration": {
            "id": f"{options.device}-{device.version()}",  # QDMI has no id of calibrations
            "taken_at": datetime.now(UTC).isoformat(),
        },
    }


def _properties(device: Any, qubits: int, operations: Mapping[str, Any]) -> dict[str, Any]:
    """Return durations and errors of all operations, as far as the device knows them."""
    second = _UNITS_S.get(device.duration_unit(), math.nan) * (device.duration_scale_factor() or 1)
    stated = {}
    for name, operation in operations.items():
        if name not in GATES and name != "measure":
            continue
        places = operation.site_pairs() or [(site,) for site in operation.sites() or ()]
        stated[name] = [_property(operation, list(place), second) for place in places]
    return {"description": device.name(), "num_qubits": qubits, "operations": stated}


def _property(operation: Any, sites: Sequence[Any], second: float) -> list[Any]:
    duration, fidelity = operation.duration(sites=sites), operation.fidelity(sites=sites)
    duration_s = None if duration is None or math.isnan(second) else duration * second
    error = None if fidelity is None else 1.0 - fidelity
    return [[site.index() for site in sites], duration_s, error]
