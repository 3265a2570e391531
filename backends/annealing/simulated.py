"""Simulated annealing on this machine, by the package dwave-samplers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import dimod
import numpy as np
from dwave.samplers import SimulatedAnnealingSampler

from backends.annealing.wire import (
    AnnealingProblem,
    AnnealingSamples,
    problems_from_frames,
    samples_to_frames,
)
from backends.devices.api import PlainPayload, PlainResult
from backends.devices.local import Stopped, Stopping
from backends.errors import PayloadRejected

__all__ = ["SimulatedAnnealer"]

# So many samples of so many variables fit into memory, with what is needed to count them.
_MOST_READS, _MOST_VARIABLES = 10_000, 20_000
_SEED_BYTES = 4


class SimulatedAnnealer:
    """See ``backends.devices.local.PayloadRunner``. sweeps: updates of each variable in a read."""

    def __init__(self, *, sweeps: int) -> None:
        self.name = "simulated-annealing"
        self.refusal: str | None = None
        self._sweeps = sweeps
        self._sampler = SimulatedAnnealingSampler()
        self._opened = datetime.now(UTC).isoformat()

    def target(self) -> Mapping[str, Any]:
        """Return the bounds of the sampler; all variables may interact."""
        return {
            "name": self.name,
            "num_qubits": _MOST_VARIABLES,
            "payload_kinds": ["annealing"],
            "mid_circuit_measurement": False,
            "max_shots": _MOST_READS,
            "calibration": {
                "id": f"{self.name}-{version('dwave-samplers')}-{self._sweeps}",
                "taken_at": self._opened,
            },
        }

    def run(self, payload: PlainPayload, stopping: Stopping) -> PlainResult:
        """Anneal each problem; a stop takes effect between two reads."""
        problems = problems_from_frames(payload.header["problems"], payload.frames)
        values = sum(one.reads * one.model.num_variables for one in problems)
        if values > _MOST_READS * _MOST_VARIABLES:
            raise PayloadRejected(
                f"samples of {values} values in one task; {self.name} takes at most "
                f"{_MOST_READS * _MOST_VARIABLES}: send fewer reads or models at once"
            )
        header, frames = samples_to_frames([self._annealed(one, stopping) for one in problems])
        return PlainResult(header=header, frames=tuple(frames), metadata={"sweeps": self._sweeps})

    def _annealed(self, problem: AnnealingProblem, stopping: Stopping) -> AnnealingSamples:
        stopping.check()
        model = problem.model
        stopped = []

        def interrupted() -> bool:
            try:
                stopping.check()
            except Stopped:
                stopped.append(True)
            return bool(stopped)

        found = self._sampler.sample(
            dimod.BinaryQuadraticModel.from_numpy_vectors(
                model.linear,
                (model.pairs[:, 0], model.pairs[:, 1], model.quadratic),
                model.offset,
                model.vartype,
            ),
            num_reads=problem.reads,
            num_sweeps=self._sweeps,
            seed=None if problem.seed is None else _folded(problem.seed),
            interrupt_function=interrupted,
        )
        stopping.check()
        record, variables = found.record, np.array(list(found.variables))
        samples = np.ascontiguousarray(record.sample[:, np.argsort(variables)])
        # The sampler sums in another order; equal samples must have equal energies.
        return AnnealingSamples.counted(
            model.vartype, samples, model.energies(samples), record.num_occurrences
        )


def _folded(seed: int) -> int:
    """Return a seed of 31 bits, which is what the sampler takes."""
    digest = hashlib.blake2b(str(seed).encode(), digest_size=_SEED_BYTES).digest()
    return int.from_bytes(digest, "big") >> 1
