"""Fair share between projects, and between the users of a project, by what they used lately."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from orchestrator.broker.core.policies.interface import QueuedJob, Situation
from orchestrator.identity import Payer

__all__ = ["FairShare", "fair_factor"]


def fair_factor(payer: Payer, situation: Situation) -> float:
    """Return an account's fair-share factor, between 0 and 1; 1 for one that used nothing.

    ``F = 2^-((Up/Sp + Uu/Su) / 2)``: Up is the project's part of all use, Sp its part of all
    shares; Uu is the user's part of the project's use, Su one over its users. It is the factor of
    Slurm's multifactor plugin, ``2^(-U/S)``, taken at both levels with equal weight. Use decays
    with a half-life, so what is long past no longer counts.
    """
    if situation.all_use <= 0:
        return 1.0
    share = situation.shares.get(payer.project, 1.0)
    if share <= 0:
        return 0.0
    of_project = situation.use_of_projects.get(payer.project)
    everything = situation.all_shares + (share if of_project is None else 0.0)
    used = (of_project or 0.0) / situation.all_use / (share / everything)
    of_user = 0.0
    if of_project:
        users = situation.users_of_projects[payer.project] + (payer not in situation.use)
        of_user = situation.use.get(payer, 0.0) / of_project * users
    factor: float = 2.0 ** (-(used + of_user) / 2)
    return factor


@dataclass(frozen=True, slots=True, kw_only=True)
class FairShare:
    """``urgency = F(project, user)``; jobs of one account go in order of arrival.

    Who has used little of late goes first. What is used counts at once, so accounts that keep
    the queue full take turns in proportion to their shares.
    """

    longest_wait_s: float | None = 86_400.0

    name: ClassVar[str] = "fair-share"
    by_payer: ClassVar[bool] = True

    def standing(self, job: QueuedJob) -> float:
        """Return 0."""
        del job
        return 0.0

    def merit(self, payer: Payer, situation: Situation) -> float:
        """Return the fair-share factor."""
        return fair_factor(payer, situation)

    def terms(self, job: QueuedJob, situation: Situation) -> dict[str, float]:
        """Return the fair-share factor."""
        return {"fair-share": fair_factor(job.payer, situation)}

    def settings(self) -> dict[str, Any]:
        """Return the parameters in force."""
        return asdict(self)
