"""The batch script of a worker job, as a run would submit it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from orchestrator.config.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.config.site import Site
    from orchestrator.slurm import Partition

__all__ = ["worker_job_script"]

_RUN = "RUN"  # stands for the id of a run in names and paths


def worker_job_script(site: Site) -> str:
    """Return the script of the first worker job of a run whose id is ``RUN``; nothing is submitted.

    Args:
        site: One whose default compute, or whose only one of that kind, is of kind ``slurm``.

    Returns:
        The text that ``sbatch`` would read. If Slurm does not answer, the partition is the site
        file's, or Slurm's default.

    Raises:
        ConfigError: No compute of the site is of kind ``slurm``, or its options are wrong.
        JobScriptError: A value cannot be written into a script.
    """
    from orchestrator.compute.worker_jobs import JobFolder, allocation
    from orchestrator.slurm.options import worker_options

    of_kind = [one for one in site.computes.values() if one.kind == "slurm"]
    default = site.compute()
    if default.kind != "slurm" and len(of_kind) != 1:
        raise ConfigError(
            f"no job script at site {site.name!r} ({site.source}): its default compute "
            f"{default.name!r} is of kind {default.kind!r}; give a compute of kind 'slurm', and name "
            "it in [site] default_compute"
        )
    options = worker_options(default if default.kind == "slurm" else of_kind[0])
    folder = JobFolder(run=_RUN, path=site.state_dir / "slurm" / _RUN, options=options)
    return folder.script(allocation(options, partitions=_partitions()), 0).text()


def _partitions() -> Mapping[str, Partition]:
    from orchestrator.slurm import Slurm, SlurmUnavailable

    try:
        return Slurm(timeout_s=10, patience_s=0).partitions()
    except SlurmUnavailable:
        return {}
