"""Pulser's QuTiP emulator in this process: its target, and its runs as tasks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from pulser import NoiseModel, Sequence
from pulser.backend import BitStrings
from pulser_simulation import QutipBackendV2, QutipConfig

from backends.analog.device import RydbergDevice
from backends.devices.api import PlainPayload, PlainResult
from backends.devices.local import Stopping
from backends.errors import PayloadRejected
from backends.pasqal.description import description

__all__ = ["PulserRunner"]


class PulserRunner:
    """See ``backends.devices.local.PayloadRunner``. A run cannot be stopped: Pulser takes none.

    noise: what Pulser's ``NoiseModel.to_abstract_repr`` returns; None for none.
    """

    def __init__(self, device: RydbergDevice, *, most_atoms: int, noise: str | None) -> None:
        self.name = device.name
        self.refusal: str | None = None
        self._release = version("pulser-simulation")
        self._target = description(device, most_atoms, self._release)
        self._noise = NoiseModel() if noise is None else NoiseModel.from_abstract_repr(noise)

    def target(self) -> Mapping[str, Any]:
        """Return the device's limits, and the emulator's."""
        return self._target

    def run(self, payload: PlainPayload, stopping: Stopping) -> PlainResult:
        """Run every sequence to its end."""
        started, found = time.monotonic(), []
        for entry, frame in zip(payload.header["items"], payload.frames, strict=True):
            stopping.check()
            found.append(self._sampled(frame.decode(), entry["shots"], entry["seed"]))
        return PlainResult(
            header=found,
            qpu_seconds=time.monotonic() - started,
            metadata={"method": f"pulser-simulation {self._release}"},
        )

    def _sampled(self, text: str, shots: int, seed: int | None) -> dict[str, Any]:
        try:
            sequence = Sequence.from_abstract_repr(text)
        except Exception as error:  # Pulser has no common class of errors
            reason = str(error) or type(error).__name__
            raise PayloadRejected(f"Pulser does not accept the sequence: {reason:.500}") from error
        # Pulser samples with NumPy's global generator; one task runs at a time.
        np.random.seed(None if seed is None else seed % 2**32)
        config = QutipConfig(observables=[BitStrings(num_shots=shots)], noise_model=self._noise)
        results = QutipBackendV2(sequence, config=config).run()
        counts = results.final_bitstrings
        return {
            "atoms": [str(atom) for atom in results.atom_order],
            "counts": {outcome: int(counts[outcome]) for outcome in sorted(counts)},
        }
