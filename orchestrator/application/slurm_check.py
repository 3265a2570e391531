"""Whether the jobs that a run will need can be, and Slurm accepts them, asked before anything starts."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.config.compute_tables import ComputeSettings
    from orchestrator.config.qpu_tables import QpuSettings
    from orchestrator.config.site import Site
    from orchestrator.slurm import Partition, Slurm

__all__ = ["check_options", "check_python", "check_slurm"]

_RUN = "RUN"  # stands for the id of the run: these jobs are not submitted


def check_options(site: Site, computes: Collection[ComputeSettings], *, starts_here: bool) -> None:
    """Refuse options of worker jobs that cannot be right, whatever Slurm says.

    Args:
        site: The run's.
        computes: Those that its stages use.
        starts_here: Whether the run's process is on this machine, which workers then reach.

    Raises:
        ConfigError: The message names the option, and what was expected.
    """
    from orchestrator.compute.worker_jobs import JobFolder, allocation
    from orchestrator.config.errors import ConfigError
    from orchestrator.slurm import JobScriptError
    from orchestrator.slurm.options import worker_options

    for compute in computes:
        if compute.kind != "slurm":
            continue
        place, options = f"[compute.{compute.name}.options]", worker_options(compute)
        try:
            folder = JobFolder(run=_RUN, path=_folder(site), options=options)
            folder.script(allocation(options), 0).text()
        except JobScriptError as error:
            raise ConfigError(f"{place}: a worker job cannot be submitted: {error}") from None
        check_python(f"{place} python", options.python, site.state_dir)
        if starts_here and options.interface is not None:
            _check_interface(place, options.interface)


def check_python(key: str, python: str | None, state_dir: Path) -> None:
    """Refuse a Python for nodes that is not where it is said to be.

    Nodes may have file systems of their own, so a file is only missed on that of the state folder,
    which all nodes see.

    Args:
        key: How the site file names it.
        python: A path, or a name that is on the ``PATH`` of a job; None for this one.
        state_dir: The site's.

    Raises:
        ConfigError: There is no such file, or it cannot be executed.
    """
    from orchestrator.config.errors import ConfigError

    if python is None or "/" not in python:
        return
    path, expected = Path(python), "expected the path of a Python with hpcqc, as the nodes see it"
    if not path.is_absolute():
        raise ConfigError(f"{key} = {python!r} is not an absolute path; {expected}")
    if os.path.exists(path):  # noqa: PTH110  # Path.exists raises for names that cannot be
        if path.is_dir() or not os.access(path, os.X_OK):
            raise ConfigError(f"{key} = {python!r} cannot be executed; {expected}")
    elif _device(path) == _device(state_dir):
        raise ConfigError(f"{key} = {python!r} does not exist, or is closed to you; {expected}")


def _device(path: Path) -> int:
    """Return the file system on which a path is, or would be."""
    there = (one for one in (path, *path.parents) if os.path.exists(one))  # noqa: PTH110
    return next(there).stat().st_dev


def _check_interface(place: str, interface: str) -> None:
    import psutil

    from orchestrator.config.errors import ConfigError

    known = psutil.net_if_addrs()
    if interface not in known:
        raise ConfigError(
            f"{place} interface = {interface!r}: this machine, on which the run's scheduler listens, "
            f"has {', '.join(known)}; choose one by which the nodes reach it"
        )


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
