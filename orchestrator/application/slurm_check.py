"""Whether Slurm accepts the jobs that a run will need, asked before anything starts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.config.site import ComputeSettings, QpuSettings, Site
    from orchestrator.slurm import Partition, Slurm

__all__ = ["check_slurm"]

_RUN = "RUN"  # stands for the id of the run: these jobs are not submitted


def check_slurm(
    site: Site, computes: Collection[ComputeSettings], qpus: Collection[QpuSettings]
) -> None:
    """Refuse a run whose worker jobs, or jobs that hold its QPUs, Slurm never accepts.

    A Slurm that does not answer refuses nothing: the run waits for it. Inside a job nothing is
    asked: the run may need no further ones.

    Args:
        site: The run's.
        computes: Those that its stages use.
        qpus: Those that its stages use.

    Raises:
        SlurmRefused: The message names the table of the site file, the reason and a remedy.
        ConfigError: Options of a compute are wrong.
        JobScriptError: A value cannot be written into a batch script.
    """
    of_slurm = [one for one in computes if one.kind == "slurm"]
    granted = [one for one in qpus if one.slurm is not None]
    if not (of_slurm or granted):
        return
    from orchestrator.slurm import Slurm, SlurmUnavailable, this_job

    if this_job() is not None:
        return
    slurm = Slurm(timeout_s=20, patience_s=0)
    try:
        partitions = slurm.partitions()
        for compute in of_slurm:
            _check_worker_job(site, compute, slurm, partitions)
        for qpu in granted:
            _check_qpu_job(site, qpu, slurm, partitions)
    except SlurmUnavailable:
        return


def _check_worker_job(
    site: Site, compute: ComputeSettings, slurm: Slurm, partitions: Mapping[str, Partition]
) -> None:
    from orchestrator.compute.worker_jobs import JobFolder, allocation
    from orchestrator.slurm import SlurmRefused, impossible
    from orchestrator.slurm.options import worker_options

    options = worker_options(compute)
    wanted = allocation(options)
    reasons = impossible(wanted.resources, partitions)
    reason, words = "; ".join(reasons), ""
    if not reasons:
        try:
            slurm.check(JobFolder(run=_RUN, path=_folder(site), options=options).script(wanted, 0))
        except SlurmRefused as error:
            reason, words = str(error), error.words
    if reason:
        raise SlurmRefused(
            f"Slurm never accepts a worker job of compute {compute.name!r}: {reason}. Correct "
            f"[compute.{compute.name}.options]",
            words=words,
        )


def _check_qpu_job(
    site: Site, qpu: QpuSettings, slurm: Slurm, partitions: Mapping[str, Partition]
) -> None:
    from orchestrator.slurm import JobScript, SlurmRefused, impossible
    from orchestrator.slurm.qpu_jobs import access_resources, never_granted

    resources = access_resources(qpu)
    reasons = impossible(resources, partitions)
    if reasons:
        raise never_granted(qpu, "; ".join(reasons))
    folder = _folder(site)
    script = JobScript(
        name=_RUN,
        tag=_RUN,
        resources=resources,
        body=("true",),
        directory=folder,
        output=folder / "qpu.out",
    )
    try:
        slurm.check(script)
    except SlurmRefused as error:
        raise never_granted(qpu, str(error), error.words) from error


def _folder(site: Site) -> Path:
    return site.state_dir / "slurm" / _RUN
