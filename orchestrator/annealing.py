"""A sampler of binary quadratic models over a broker, for annealers."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from backends.payloads import AnnealingPayload, AnnealingSamples
from backends.validate import check_fits
from orchestrator.primitives import Primitive
from orchestrator.qpu import Qpu
from orchestrator.qpu_job import QpuJob

__all__ = ["AnnealingSampler"]

_DEFAULT_READS = 100


class AnnealingSampler(Primitive):
    """Samples low energies of binary quadratic models on an annealer of the site."""

    def __init__(
        self,
        qpu: Qpu | str | None = None,
        *,
        default_reads: int = _DEFAULT_READS,
        seed: int | None = None,
        reuse: bool = False,
    ) -> None:
        """Choose an annealer; it is opened when it is used.

        Args:
            qpu: the `Qpu` of a stage, or a QPU's name; None is the run's default.
            default_reads: how often a model is annealed for which ``run`` states no number.
            seed: for simulators; equal seeds give equal samples.
            reuse: take the result of an equal job that completed before, in another run too.
        """
        super().__init__(qpu, seed=seed, may_reuse=reuse)
        self._default_reads = default_reads

    @property
    def default_reads(self) -> int:
        """How often a model is annealed for which ``run`` states no number."""
        return self._default_reads

    def run(
        self, models: Iterable[Any], *, reads: int | None = None
    ) -> QpuJob[list[AnnealingSamples]]:
        """Submit models as one quantum job; return when the broker has stored it.

        Args:
            models: each a `BinaryQuadraticModel`, or one of dimod whose variables are numbered
                from 0; or a pair of a model and its reads.
            reads: how often a model is annealed that states no number; None is ``default_reads``.

        Returns:
            The job; its ``result()`` waits and returns `AnnealingSamples` for each model.

        Raises:
            PayloadRejected: a model is invalid or can never run on the QPU; nothing was submitted.
            QpuUnavailable: the QPU cannot be reached.
            BudgetExhausted: the job would cost more than the budget has left.
        """
        asked = self._default_reads if reads is None else reads
        payload = AnnealingPayload.coerce(models, reads=asked, seed=self._options["seed"])
        return QpuJob(self.qpu, partial(_checked, payload), **self._options)


def _checked(payload: AnnealingPayload, qpu: Qpu) -> AnnealingPayload:
    check_fits(payload, qpu.target)
    return payload
