"""Free slots of a QPU's broker, told to Slurm as a remote licence."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.application.service import open_service
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.slurm import RemoteLicence, Slurm

if TYPE_CHECKING:
    from orchestrator.broker.client.status import QpuStatus

__all__ = ["PublishedSlots", "publish_slots"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSlots:
    """What Slurm knows of a QPU's slots now.

    Attributes:
        licence: As jobs name it, ``NAME@SERVER``.
        total: Slots in all, the licence's count.
        taken: Those that Slurm gives to no further job.
        changed: Whether Slurm was told another number than before.
        closed: Why all of them are taken though no run has them; None if that is not so.
        answered: Whether the broker answered.
    """

    qpu: str
    licence: str
    total: int
    taken: int
    changed: bool
    closed: str | None = None
    answered: bool = True


def publish_slots(
    qpu: str | None = None, *, licence: str | None = None, site: Path | str | None = None
) -> PublishedSlots:
    """Tell Slurm how many slots of a QPU are taken, once.

    A slot is room for a run. Each run with a task or a lease on the QPU, or with a job that waits for
    it at the broker, takes one, whether or not it came through Slurm. All are taken while the QPU is
    drained, closed or out of reach, or the broker does not answer.

    Args:
        qpu: QPU of the site; None for the default one.
        licence: Remote licence as jobs name it, ``NAME@SERVER``; None for the one in the QPU's table
            ``slurm``.
        site: Path of a site file; None for the one that the usual lookup finds.

    Returns:
        What Slurm knows now.

    Raises:
        ConfigError: The site file is wrong, or the QPU has no remote licence.
        SlurmRefused: There is no such licence, the user is no operator of Slurm's, or Slurm is
            older than 23.02.
        SlurmUnavailable: Slurm's database does not answer.
    """
    settings = load_site(site).qpu(qpu)
    slurm = Slurm()
    known = _licence(settings, licence, slurm)
    taken, closed, answered = _taken(settings.name, known.total, site)
    # Also if it is the same number: Slurm compares it with what its jobs hold at that moment only.
    slurm.set_consumed(known, taken)
    return PublishedSlots(
        qpu=settings.name,
        licence=known.text,
        total=known.total,
        taken=taken,
        changed=taken != known.consumed,
        closed=closed,
        answered=answered,
    )


def _licence(settings: QpuSettings, given: str | None, slurm: Slurm) -> RemoteLicence:
    """Return the remote licence of a QPU, as Slurm's database has it."""
    own = None if settings.slurm is None else settings.slurm.license
    stated = given or own or ""
    wanted = stated.partition(":")[0]
    if "@" not in wanted:
        raise ConfigError(
            f"{stated!r} is not a remote licence for QPU {settings.name!r}; name one with its server, "
            f"such as {settings.name}@hpcqc, by --licence or in [qpu.{settings.name}.slurm] license"
        )
    known = slurm.remote_licences()
    # The database has all names in lower case, unless an operator has told it otherwise.
    found = next((one for one in known if one.text.lower() == wanted.lower()), None)
    if found is None:
        listed = ", ".join(one.text for one in known) or "none"
        raise ConfigError(
            f"Slurm has no remote licence {wanted}; it has: {listed}. Make it with `sacctmgr add "
            "resource name=NAME server=SERVER type=license count=SLOTS cluster=CLUSTER allowed=100`"
        )
    return found


def _taken(qpu: str, total: int, site: Path | str | None) -> tuple[int, str | None, bool]:
    """Return how many slots are taken, why all are if no run has them, and whether that is known."""
    from orchestrator.broker.client.http import BrokerRefused, BrokerUnreachable

    try:
        with closing(open_service(site=site)) as broker:
            status = next((one for one in broker.qpus() if one.name == qpu), None)
    except (ConfigError, BrokerRefused, BrokerUnreachable) as error:
        return total, str(error), False
    if status is None:
        return total, f"the broker service has no QPU {qpu!r}", False
    return _slots(status, total)


def _slots(status: QpuStatus, total: int) -> tuple[int, str | None, bool]:
    if status.standstill is not None:
        return total, status.standstill, True
    return min(status.runs, total), None, True
