"""The last run that was like one that is to come."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.application.register import registered_runs
from orchestrator.provenance.record import site_document
from orchestrator.provenance.schema import RecordedQpu, RecordError, read_record

if TYPE_CHECKING:
    from orchestrator.config.site import Site
    from orchestrator.provenance.schema import RunRecord

__all__ = ["earlier_run"]


def earlier_run(
    site: Site, site_file: Path | None, *, target: str, parameters: Any, qpu: str | None
) -> RunRecord | None:
    """Return the record of the last completed run whose times another one should have, too.

    Args:
        site: Where the run is to be.
        site_file: Its file, absolute; None for the built-in laptop.
        target: The flow as it is named.
        parameters: As a record has them.
        qpu: QPU of the quantum stages that pin none; None for the site's default.

    Returns:
        The record of a run of the same flow with the same parameters at this site, on the same
        QPUs with the options of now; None if there is none.
    """
    for run in registered_runs(site.state_dir):
        if run.target != target or run.site != site_file:
            continue
        try:
            record = read_record(run.folder)
        except RecordError:
            continue
        is_same = record.id == run.id and record.parameters == parameters
        if (
            record.status == "completed"
            and record.stages
            and is_same
            and _same_qpus(record, site, qpu)
        ):
            return record
    return None


def _same_qpus(record: RunRecord, site: Site, qpu: str | None) -> bool:
    """Whether a run used the QPUs that it would use now, as they are now."""
    if record.qpu != site.qpu_name(qpu):
        return False
    now = {
        name: RecordedQpu.model_validate(document)
        for name, document in site_document(site)["qpu"].items()
    }
    used = {job.qpu for job in record.jobs} | {qpu.name for qpu in site.qpus_for(record.qpu)}
    return all(
        name in now and name in record.site.qpu and _works_alike(record.site.qpu[name], now[name])
        for name in used
    )


def _works_alike(one: RecordedQpu, other: RecordedQpu) -> bool:
    """Whether the same work takes the same time; the schedule does not matter for that."""
    return (one.backend, one.options, one.slurm) == (other.backend, other.options, other.slurm)
