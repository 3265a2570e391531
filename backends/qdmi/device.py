"""One QDMI device: what it can do, as a target, and its jobs, as tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from mqt.core import qdmi

from backends.devices.api import FlatPub, bound_steps, point_seed
from backends.devices.local import LocalDevice, Stopping
from backends.devices.outcomes import spread, written_bits
from backends.errors import QpuUnavailable, TaskFailed
from backends.plugins import PluginUnusable
from backends.qdmi.factory import QdmiOptions
from backends.qdmi.openqasm import GATES, openqasm
from backends.suggestions import did_you_mean

__all__ = ["QdmiSampler", "open_device"]

# A simulator has as many qubits as memory holds; circuits are compiled for so many.
_DEFAULT_QUBITS = 32
_LARGEST_SEED = 2**31 - 1
# Operations that Qiskit calls otherwise.
_CALLED = {"i": "id"}
# Units of QDMI 1.4 for durations.
_UNITS_S = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "ps": 1e-12}


def open_device(options: QdmiOptions) -> LocalDevice:
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
    return LocalDevice(QdmiSampler(device, options))


class QdmiSampler:
    """See ``backends.devices.local.PointSampler``: one QDMI job for each circuit and point."""

    def __init__(self, device: Any, options: QdmiOptions) -> None:
        self.name, self._device = options.device, device
        self._target = _target(device, options)
        runs = qdmi.ProgramFormat.QASM2 in device.supported_program_formats()
        self.refusal = (
            None
            if runs
            else f"QDMI device {self.name!r} takes no OpenQASM 2: it describes a machine, so that "
            "circuits can be compiled for it; choose another device"
        )

    def target(self) -> Mapping[str, Any]:
        """Return what the device states."""
        return self._target

    def sample(self, pub: FlatPub, point: int, stopping: Stopping) -> Mapping[str, int]:
        """Run one point."""
        steps = list(bound_steps(pub, point))
        written = written_bits(steps)
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
        return spread(job.get_counts(), written, pub.num_clbits)


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
        "coupling_class": "interactive",
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
