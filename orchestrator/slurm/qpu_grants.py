"""Whether Slurm jobs hold QPUs for the users who say so, as a broker asks it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta

from orchestrator.broker.core.grants import Grant
from orchestrator.broker.core.rules import Window
from orchestrator.broker.runtime.grant_watch import GrantState
from orchestrator.config.private import login_name
from orchestrator.config.slurm_access import SlurmAccess
from orchestrator.slurm.client import Slurm
from orchestrator.slurm.inventory import Partition, Reservation
from orchestrator.slurm.states import SlurmJob, SlurmState, tres_of

__all__ = ["SlurmAllocations", "closes", "grant_state", "lacks"]

_ENDING = (SlurmState.COMPLETING, SlurmState.STAGE_OUT)
_PAUSED = (SlurmState.SUSPENDED, SlurmState.STOPPED)


class SlurmAllocations:
    """Asks Slurm whether jobs hold QPUs; `look` runs one `squeue` for all of them.

    Args:
        slurm: Its ``patience_s`` should be short: the broker asks again.
        accesses: How Slurm grants each QPU.
        own_user: Whose jobs those without a user are; None for the user of this process.
    """

    def __init__(
        self, slurm: Slurm, accesses: Mapping[str, SlurmAccess], own_user: str | None = None
    ) -> None:
        self._slurm = slurm
        self._accesses = accesses
        self._own_user = own_user

    def look(self, grants: Collection[Grant]) -> dict[Grant, GrantState]:
        """Return how each grant stands. Raises ``SlurmUnavailable``."""
        own = self._own_user or login_name()
        jobs = self._slurm.jobs({grant.slurm_job for grant in grants}).values()
        now = datetime.now(UTC)
        return {
            grant: grant_state(
                grant._replace(user=grant.user or own), jobs, self._accesses[grant.qpu], now
            )
            for grant in grants
        }

    def closures(self) -> dict[str, tuple[Window, ...]]:
        """Return the maintenance that is reserved, by QPU. Raises ``SlurmUnavailable``."""
        asking = {name: access for name, access in self._accesses.items() if access.maintenance}
        if not asking:
            return {}
        reserved = [one for one in self._slurm.reservations() if one.is_maintenance]
        partitions = self._slurm.partitions() if reserved else {}
        return {
            name: tuple(
                Window(start=one.starts_at, end=one.ends_at, title=f"Slurm: {one.name}")
                for one in reserved
                if closes(one, access, partitions)
            )
            for name, access in asking.items()
        }


def closes(
    reservation: Reservation, access: SlurmAccess, partitions: Mapping[str, Partition]
) -> bool:
    """Whether a maintenance reservation has a QPU: its licence, its GRES or its partition (pure)."""
    if reservation.name == access.reservation:
        return False  # jobs that hold the QPU run in it
    if access.license is not None and _counted(access.license)[0] in reservation.licenses:
        return True
    if access.gres is not None and tres_of(reservation.tres).get(
        f"gres/{_counted(access.gres)[0]}"
    ):
        return True
    known = partitions.get(access.partition or "")
    nodes = set() if known is None else set(known.nodes)
    return bool(nodes) and nodes <= set(reservation.nodes)


def grant_state(
    grant: Grant, jobs: Iterable[SlurmJob], access: SlurmAccess, now: datetime
) -> GrantState:
    """Return how a grant stands by what the queue says of all jobs that were asked for (pure).

    It ends two looks before the walltime does, so that the QPU is idle when Slurm gives it away.
    """
    what = f"Slurm job {grant.slurm_job}"
    found = [job for job in jobs if grant.slurm_job in (job.id, job.leader)]
    if not found:
        return GrantState(state="ended", reason=f"{what} has ended; Slurm's queue has it no longer")
    if any(job.user != grant.user for job in found):
        # Whose it is stays out of the text: anybody could ask for any number.
        return GrantState(
            state="ended",
            reason=f"{what} is not a job of user {grant.user!r}; name a job of that user",
        )
    states = {job.state for job in found}
    if any(state.is_over or state in _ENDING for state in states):
        names = ", ".join(sorted(state.value for state in states))
        return GrantState(state="ended", reason=f"{what} has ended ({names})")
    if any(state.is_waiting for state in states):
        return GrantState(state="waits", reason=f"{what} was requeued and waits")
    if SlurmState.UNKNOWN in states or states & set(_PAUSED):
        return GrantState(state="unknown", reason=f"{what} is {found[0].state.value}")
    ends = min((job.ends_by for job in found if job.ends_by is not None), default=None)
    if ends is not None and ends - now <= timedelta(seconds=2 * access.check_s):
        return GrantState(state="ended", reason=f"the walltime of {what} is over; ask for more")
    lacking = lacks(found[0], access, *found[1:])
    if lacking:
        return GrantState(state="ended", reason=f"{what} of {grant.qpu!r} {lacking}")
    return GrantState(state="holds")


def lacks(job: SlurmJob, access: SlurmAccess, *components: SlurmJob) -> str:
    """Return what a running job lacks of a QPU, as the rest of a sentence; empty for nothing.

    components: further ones of a heterogeneous job. Its first one has the licences, another one the
    node with the GRES.
    """
    together = (job, *components)
    if access.gres is not None and not any(_has_gres(one, access.gres) for one in together):
        return (
            f"does not hold the GRES {access.gres!r}; submit it with --gres={access.gres}. If it "
            "does, let slurm.conf list the GRES in AccountingStorageTRES"
        )
    licence = access.license
    if licence is not None and not any(_has_licence(one, licence) for one in together):
        lost = (
            ". A job that was requeued loses its licences in Slurm 25.05.0 to 25.05.8 and 25.11.0 "
            "to 25.11.6"
            if job.restarts
            else ""
        )
        return (
            f"does not hold the licence {access.license!r}; submit it with "
            f"--licenses={access.license}{lost}"
        )
    partitions = {None, *(one.partition for one in together)}
    if access.gres or access.license or access.partition in partitions:
        return ""
    return f"runs in partition {job.partition!r}; expected {access.partition!r}"


def _has_gres(job: SlurmJob, wanted: str) -> bool:
    name, count = _counted(wanted)
    held = tres_of(job.tres)
    kind = f"gres/{name}"
    return held.get(kind, 0) >= count


def _has_licence(job: SlurmJob, wanted: str) -> bool:
    name, count = _counted(wanted)
    if "|" in job.licenses:  # Slurm chose one of them, and only what it allocated says which
        return tres_of(job.tres).get(f"license/{name}", 0) >= count
    held = (_counted(one) for one in job.licenses.split(","))
    return any(one == name and number >= count for one, number in held)


def _counted(text: str) -> tuple[str, float]:
    """Return a name and a number of ``NAME:COUNT``; 1 without a number.

    >>> _counted("qpu:vlq:2"), _counted("qpu")
    (('qpu:vlq', 2.0), ('qpu', 1.0))
    """
    name, _, count = text.strip().rpartition(":")
    if name and count.isdecimal():
        return name, float(count)
    return text.strip(), 1.0
