"""A sampler of analog sequences over a broker, for QPUs of neutral atoms."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from backends.payloads import AnalogCounts, AnalogPayload
from backends.validate import check_fits
from orchestrator.primitives import Primitive
from orchestrator.qpu import Qpu
from orchestrator.qpu_job import QpuJob

__all__ = ["AnalogSampler"]

_DEFAULT_SHOTS = 100


class AnalogSampler(Primitive):
    """Samples sequences of pulses on neutral atoms of a QPU of the site."""

    def __init__(
        self,
        qpu: Qpu | str | None = None,
        *,
        default_shots: int = _DEFAULT_SHOTS,
        seed: int | None = None,
        reuse: bool = False,
    ) -> None:
        """Choose a QPU; it is opened when it is used.

        Args:
            qpu: the `Qpu` of a stage, or a QPU's name; None is the run's default.
            default_shots: shots of a sequence for which ``run`` states no number.
            seed: for simulators; equal seeds give equal counts.
            reuse: take the result of an equal job that completed before, in another run too.
        """
        super().__init__(qpu, seed=seed, may_reuse=reuse)
        self._default_shots = default_shots

    @property
    def default_shots(self) -> int:
        """Shots of a sequence for which ``run`` states no number."""
        return self._default_shots

    def run(
        self, sequences: Iterable[Any], *, shots: int | None = None
    ) -> QpuJob[list[AnalogCounts]]:
        """Submit sequences as one quantum job; return when the broker has stored it.

        Args:
            sequences: each the text of Pulser's ``Sequence.to_abstract_repr()``, such as
                `rydberg_sequence` returns, or a ``pulser.Sequence``; or a pair of one and its shots.
            shots: of a sequence that states none; None is ``default_shots``.

        Returns:
            The job; its ``result()`` waits and returns `AnalogCounts` for each sequence.

        Raises:
            PayloadRejected: a sequence is invalid or can never run on the QPU; nothing was
                submitted.
            QpuUnavailable: the QPU cannot be reached.
            BudgetExhausted: the job would cost more than the budget has left.
        """
        asked = self._default_shots if shots is None else shots
        payload = AnalogPayload.coerce(sequences, shots=asked, seed=self._options["seed"])
        return QpuJob(self.qpu, partial(_checked, payload), **self._options)


def _checked(payload: AnalogPayload, qpu: Qpu) -> AnalogPayload:
    check_fits(payload, qpu.target)
    return payload
