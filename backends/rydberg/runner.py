"""A device of neutral atoms in this process: its target, and its sequences evolved exactly."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from backends.analog.device import SHOT_S, RydbergDevice
from backends.analog.evolution import (
    drive_of,
    evolution_steps,
    interactions,
    probabilities,
    sampled,
)
from backends.devices.api import PlainPayload, PlainResult
from backends.devices.local import Stopping
from backends.errors import PayloadRejected
from backends.payloads import AnalogCounts, AnalogPayload, payload_kind
from backends.timing import TimingModel

__all__ = ["RydbergRunner"]

# Amplitudes times steps of one sequence: about twenty minutes on a core.
_MOST_WORK = 20_000_000_000
_STEP_OVERHEAD = 512  # of a step, in amplitudes
_BUILT = "2026-01-01T00:00:00+00:00"


class RydbergRunner:
    """See ``backends.devices.local.PayloadRunner``.

    most_atoms: that fit into memory. time_scale: seconds that pass for each second of the device.
    """

    def __init__(self, device: RydbergDevice, *, most_atoms: int, time_scale: float) -> None:
        self.name = device.name
        self.refusal: str | None = None
        self._device, self._most, self._scale = device, most_atoms, time_scale
        digest = hashlib.sha256(device.specification.encode()).hexdigest()[:12]
        self._calibration = {"id": f"{device.name}-{digest}", "taken_at": _BUILT}

    def target(self) -> Mapping[str, Any]:
        """Return the device's limits, and the simulator's."""
        return {
            "name": self.name,
            "num_qubits": min(self._most, self._device.max_atoms or self._most),
            "payload_kinds": ["analog"],
            "mid_circuit_measurement": False,
            "coupling_class": "interactive",
            "max_shots": self._device.max_runs,
            "calibration": self._calibration,
            "timing": asdict(TimingModel(shot_s=SHOT_S)),
            "clock_scale": self._scale,
            "rydberg": asdict(self._device),
        }

    def run(self, payload: PlainPayload, stopping: Stopping) -> PlainResult:
        """Evolve and measure every sequence."""
        kind = payload_kind("analog")
        read = kind.read(payload.header, list(payload.frames), None)
        assert isinstance(read, AnalogPayload)
        begun, counts, device_s = time.monotonic(), [], 0.0
        for item in read.items:
            sequence = item.sequence
            drive = drive_of(sequence, self._device)
            couplings = interactions(sequence, self._device.c6)
            _check_work(evolution_steps(drive, couplings), len(sequence.atoms))
            outcomes = probabilities(drive, couplings, check=stopping.check)
            random = np.random.default_rng(item.seed)
            atoms = tuple(atom.name for atom in sequence.atoms)
            found = sampled(outcomes, len(atoms), item.shots, random)
            counts.append(AnalogCounts(atoms=atoms, counts=found))
            device_s += item.shots * (SHOT_S + (sequence.duration_ns or 0) * 1e-9)
        _pause(begun + device_s * self._scale - time.monotonic(), stopping)
        header, frames = kind.pack_result(counts)
        return PlainResult(
            header=header,
            frames=tuple(frames),
            qpu_seconds=device_s,
            metadata={"method": "exact evolution of the state vector"},
        )


def _check_work(steps: int, atoms: int) -> None:
    """Raise `PayloadRejected` for an evolution that takes longer than anybody waits."""
    step_work = (1 << atoms) + _STEP_OVERHEAD
    if steps * step_work > _MOST_WORK:
        raise PayloadRejected(
            f"{atoms} atoms for {steps} steps of the simulation, which takes at most "
            f"{_MOST_WORK // step_work} for so many; give fewer atoms, a shorter sequence, or atoms that "
            "are further apart: the closest ones set the step"
        )


def _pause(rest_s: float, stopping: Stopping) -> None:
    """Let the device's time pass, unless the task is stopped."""
    if rest_s <= 0:
        return
    stopped = threading.Event()
    stopping.cancel_with(stopped.set)
    stopped.wait(rest_s)
    stopping.cancel_with(None)
