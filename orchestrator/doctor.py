"""Whether this machine and installation can run hybrid flows, and what is in the way."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.config.backend_environments import backend_environment
from orchestrator.config.compute_tables import BatchTable
from orchestrator.config.environment import variable
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.secrets import resolve_secrets
from orchestrator.config.site import Site
from orchestrator.names import EXTENSION_GROUPS, OUR_PACKAGES
from orchestrator.wording import counted

if TYPE_CHECKING:
    from orchestrator.slurm import Partition, Slurm

__all__ = [
    "PACKAGES",
    "Check",
    "ShadowError",
    "diagnose",
    "foreign_flow",
    "machine",
    "missing_extra",
    "shadowing",
    "versions",
]

PACKAGES = (
    "hpcqc",
    "prefect",
    "qiskit",
    "qiskit-aer",
    "dask",
    "distributed",
    "numpy",
    "scipy",
    "pyscf",
    "ffsim",
)
_EXTRAS = {"chemistry": ("pyscf", "ffsim"), "clustering": ("sklearn",)}
_OURS = Path(__file__).resolve().parents[1]
_MIN_MEMORY_GIB = 2.0
_MIN_FREE_GIB = 0.5


class ShadowError(ValueError):
    """A folder or file of the user's has the name of one of our packages and comes first."""


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ``broken`` means that runs will fail; ``note`` is worth knowing."""

    name: str
    state: Literal["ok", "note", "broken"]
    detail: str


def diagnose(site: Path | str | None = None) -> list[Check]:
    """Check everything a run needs: the installation, the machine and the site.

    Args:
        site: Path of a site file; None for the one that the usual lookup finds.

    Returns:
        A finding for each thing checked; nothing is changed, and nothing is raised.
    """
    checks = [_python(), *_packages(), *_extras(), _cores(), _memory(), _shadows(), *_plugins()]
    try:
        found = load_site(site)
    except ConfigError as error:
        return [*checks, Check("site", "broken", str(error))]
    checks.append(Check("site", "ok", f"{found.name} ({found.source})"))
    checks += [_state_dir(found), _ledger(found), _prefect(), *_qpus(found), _schedules(found)]
    return [*checks, *_slurm(found)]


def shadowing(folder: Path) -> None:
    """Check that no package in a folder would be taken for one of ours. Raises `ShadowError`."""
    # Its own flows is fine: nothing of ours imports that name.
    for name in ("hpcqc", "orchestrator", "backends"):
        for candidate in (folder / name, folder / f"{name}.py"):
            is_package = candidate.is_dir() and any(candidate.glob("*.py"))
            if not (is_package or candidate.is_file()) or candidate.resolve().parent == _OURS:
                continue
            raise ShadowError(
                f"{candidate} has the name of an hpcqc package: scripts in {folder} would import "
                f"it instead of hpcqc's {name!r}. Rename it, or move the script elsewhere."
            )


def foreign_flow(point: EntryPoint) -> None:
    """Check that a ready flow's module is the installed one. Raises `ShadowError`."""
    if point.dist is None or point.dist.metadata["Name"] != "hpcqc":
        return  # there is no installed distribution to compare with
    try:
        spec = importlib.util.find_spec(point.module)
    except ModuleNotFoundError:
        spec = None
    found = Path(spec.origin).resolve() if spec and spec.origin else None
    if found is None or not found.is_relative_to(_OURS):
        raise ShadowError(
            f"the name {point.module!r} leads to {found or 'no module'}, not to hpcqc's in "
            f"{_OURS}; something else comes first on Python's path. Unset PYTHONPATH, or leave "
            "that folder."
        )


def missing_extra(module: str) -> str:
    """Say how to get a module that is not installed: the extra that brings it, if one does."""
    top = module.split(".", maxsplit=1)[0]
    for extra, packages in _EXTRAS.items():
        if top in packages:
            return f"install the extra with: pip install 'hpcqc[{extra}]'"
    if top in OUR_PACKAGES:
        return f"hpcqc's own package {top!r} has no such module"
    return (
        "no module of that name is installed here; check its spelling, and install the package that "
        "brings it into this environment"
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of every installed package that shapes results."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Return host, system, cores this process may use, and memory."""
    import psutil

    return {
        "host": platform.node(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }


def _python() -> Check:
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    detail = f"{platform.python_version()} at {sys.executable}"
    if not good:
        detail += "; 3.11 to 3.13 are supported"
    return Check("python", "ok" if good else "broken", detail)


def _packages() -> Iterator[Check]:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        wanted = requires("hpcqc") or []
    except PackageNotFoundError:
        yield Check(
            "hpcqc",
            "note",
            "runs from a source folder, not installed; ready flows have no names then",
        )
        return
    yield Check("hpcqc", "ok", version("hpcqc"))
    for text in wanted:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        try:
            have = distribution(requirement.name).version
        except PackageNotFoundError:
            yield Check(name, "broken", f"not installed; needs {requirement}")
            continue
        good = requirement.specifier.contains(have, prereleases=True)
        detail = have if good else f"{have}; needs {requirement.specifier}"
        yield Check(name, "ok" if good else "broken", detail)


def _extras() -> Iterator[Check]:
    for extra, packages in _EXTRAS.items():
        absent = [name for name in packages if importlib.util.find_spec(name) is None]
        yield Check(
            f"extra {extra}",
            "note" if absent else "ok",
            missing_extra(absent[0]) if absent else ", ".join(packages),
        )


def _cores() -> Check:
    return Check("cores", "ok", f"{len(os.sched_getaffinity(0))} usable")


def _memory() -> Check:
    import psutil

    free, total = (getattr(psutil.virtual_memory(), key) / 2**30 for key in ("available", "total"))
    detail = f"{free:.1f} GiB free of {total:.1f}"
    if free >= _MIN_MEMORY_GIB:
        return Check("memory", "ok", detail)
    return Check("memory", "note", f"{detail}; a flow takes 1 to 2")


def _shadows() -> Check:
    try:
        shadowing(Path.cwd())
    except ShadowError as error:
        return Check("shadowing", "broken", str(error))
    return Check("shadowing", "ok", "no folder here hides hpcqc's packages")


def _state_dir(site: Site) -> Check:
    """See whether files in the nearest existing folder can be written and locked; make none."""
    import fcntl
    import tempfile

    folder, what = site.state_dir, "cannot be written"
    try:
        existing = next(place for place in (folder, *folder.parents) if place.exists())
        with tempfile.TemporaryFile(dir=existing) as file:
            what = "has a file system that locks no files, as some parallel ones are mounted"
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return Check(
            "state folder", "broken", f"{folder} {what}: {error.strerror}; set HPCQC_STATE_DIR"
        )
    free = shutil.disk_usage(existing).free / 2**30
    state: Literal["ok", "note"] = "ok" if free >= _MIN_FREE_GIB else "note"
    return Check("state folder", state, f"{folder}, {free:.1f} GiB free")


def _ledger(site: Site) -> Check:
    path = site.state_dir / "ledger.sqlite"

    def look() -> str:
        if not path.exists():
            return f"none yet; the first job makes {path}"
        from orchestrator.broker.ledger import Ledger

        with closing(Ledger.open(path)) as ledger:
            return f"{path}, {counted(len(ledger.runs()), 'run')}"

    return _tried("ledger", look)


def _prefect() -> Check:
    url = variable("PREFECT_API_URL")
    if url is None:
        return Check("prefect server", "ok", "a temporary one for each run")
    import urllib.request

    def look() -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("not an http address")
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5) as answer:
            return f"{url} answers ({answer.status})"

    return _tried("prefect server", look, f"PREFECT_API_URL={url} does not answer")


def _plugins() -> Iterator[Check]:
    from backends.metering import formula_class
    from backends.payloads import payload_kind
    from backends.plugins import installed, load
    from orchestrator.broker.runtime.site_rules import named_policy

    checked: dict[str, Callable[[str], object]] = {
        "hpcqc.payloads": payload_kind,
        "hpcqc.meterings": formula_class,
        "hpcqc.policies": named_policy,
    }
    for group, noun in EXTENSION_GROUPS.items():
        usable = checked.get(group, partial(load, group, noun=noun))
        for name, point in installed(group).items():
            yield _tried(f"{noun} {name}", partial(_usable, usable, point))


def _usable(check: Callable[[str], object], point: EntryPoint) -> str:
    check(point.name)
    return point.value


def _qpus(site: Site) -> Iterator[Check]:
    from backends import registry

    known = registry.available()
    for qpu in site.qpus.values():
        if qpu.backend not in known:
            detail = f"no backend {qpu.backend!r}; installed are: {', '.join(known) or 'none'}"
            yield Check(f"QPU {qpu.name}", "broken", detail)
            continue
        described = _tried(f"QPU {qpu.name}", partial(_described, qpu))
        if described.state == "broken":
            yield described


def _described(settings: QpuSettings) -> str:
    from backends import registry

    options = resolve_secrets(settings.options)
    environment = backend_environment(settings)
    return registry.describe(settings.backend, options, environment=environment).name


def _schedules(site: Site) -> Check:
    from datetime import UTC, datetime

    from orchestrator.broker.runtime.site_rules import check_schedules

    try:
        check_schedules(site.qpus.values(), datetime.now(UTC))
    except ConfigError as error:
        return Check("schedules", "broken", str(error))
    return Check("schedules", "ok", f"of {counted(len(site.qpus), 'QPU')}")


def _slurm(site: Site) -> Iterator[Check]:
    """Look at Slurm where the site uses it, or where its commands are."""
    from orchestrator.slurm import Slurm, SlurmRefused, SlurmUnavailable
    from orchestrator.slurm.versions import faults_of

    users = [f"[compute.{one.name}]" for one in site.computes.values() if one.kind == "slurm"]
    users += [f"[qpu.{one.name}.slurm]" for one in site.qpus.values() if one.slurm is not None]
    absent: Literal["broken", "note"] = "broken" if users else "note"
    if shutil.which("sbatch") is None:
        if users:
            yield Check("slurm", absent, f"no sbatch on the PATH, which {users[0]} needs")
        return
    slurm = Slurm(timeout_s=10, patience_s=0)
    try:
        release, partitions = slurm.version(), slurm.partitions()
    except (SlurmUnavailable, SlurmRefused, ValueError) as error:
        yield Check("slurm", absent, str(error))
        return
    offered = [one for one in partitions.values() if one.is_offered]
    names = [f"{one.name} (default)" if one.is_default else one.name for one in offered]
    text = "{}.{:02d}.{}".format(*release)
    yield Check("slurm", "ok", f"{text}, partitions: {', '.join(names) or 'none'}")
    yield from (Check("slurm version", "note", f"{text}: {fault}") for fault in faults_of(release))
    try:
        slurm.accounting(ids=[1])
        yield Check("slurm accounting", "ok", "sacct answers")
    except (SlurmUnavailable, SlurmRefused, ValueError) as error:
        yield Check("slurm accounting", "note", f"{error}; `hpcqc accounting` needs it")
    yield from _slurm_requests(site, slurm, partitions)
    if users:
        yield from _slurm_settings(site, slurm)


def _slurm_requests(
    site: Site, slurm: Slurm, partitions: Mapping[str, Partition]
) -> Iterator[Check]:
    """See whether the cluster can ever meet what the site file asks of it."""
    from orchestrator.compute.worker_jobs import allocation
    from orchestrator.slurm import JobResources, impossible
    from orchestrator.slurm.options import driver_resources, worker_options

    for compute in site.computes.values():
        if compute.kind != "slurm":
            continue
        name = f"compute {compute.name}"
        try:
            options = worker_options(compute)
        except ConfigError as error:
            yield Check(name, "broken", str(error))
            continue
        worker = allocation(options, partitions=partitions)
        reasons = impossible(worker.resources, partitions)
        state: Literal["broken", "ok"] = "broken" if reasons else "ok"
        yield Check(name, state, "; ".join(reasons) or "a worker job fits its partition")
    if site.batch != BatchTable():
        reasons = impossible(driver_resources(site.batch), partitions)
        yield Check(
            "driver jobs",
            "broken" if reasons else "ok",
            "; ".join(reasons) or "one fits its partition",
        )
    for qpu in site.qpus.values():
        if qpu.slurm is None:
            continue
        asked = JobResources(
            partition=qpu.slurm.partition, walltime=qpu.slurm.walltime, gres=qpu.slurm.gres
        )
        reasons = impossible(asked, partitions)
        if qpu.slurm.license is not None:
            reasons += _missing_licence(qpu.slurm.license, slurm)
        yield Check(
            f"QPU {qpu.name} in slurm",
            "broken" if reasons else "ok",
            "; ".join(reasons) or "the cluster has what its jobs ask for",
        )


def _slurm_settings(site: Site, slurm: Slurm) -> Iterator[Check]:
    """See whether the cluster is configured so that Slurm says who holds a QPU."""
    from orchestrator.slurm import SlurmRefused, SlurmUnavailable

    try:
        settings = slurm.settings()
    except (SlurmUnavailable, SlurmRefused) as error:
        yield Check("slurm.conf", "note", f"cannot be read: {error}")
        return
    named = settings.get("AccountingStorageTRES", "").split(",")
    tracked = {name.strip().lower() for name in named}
    for qpu in site.qpus.values():
        tres = () if qpu.slurm is None else qpu.slurm.tres
        absent = [name for name in tres if name.lower() not in tracked]
        if not absent:
            continue
        is_needed = any(name.startswith("gres/") for name in absent)
        effect = (
            "Slurm does not say which jobs hold the GRES, and the broker runs nothing on the QPU"
            if is_needed
            else "`hpcqc accounting` counts the time of the jobs instead"
        )
        yield Check(
            f"QPU {qpu.name} in slurm.conf",
            "broken" if is_needed else "note",
            f"AccountingStorageTRES lacks {', '.join(absent)}: {effect}; add it in slurm.conf",
        )
    if "job_comment" not in settings.get("AccountingStoreFlags", "").lower():
        yield Check(
            "slurm.conf",
            "note",
            "AccountingStoreFlags lacks job_comment, so `hpcqc accounting` knows jobs by their names "
            "alone; add it in slurm.conf",
        )


def _missing_licence(asked: str, slurm: Slurm) -> list[str]:
    from orchestrator.slurm import SlurmRefused, SlurmUnavailable

    name, _, count = asked.partition(":")
    try:
        has = slurm.licenses()
    except (SlurmUnavailable, SlurmRefused) as error:
        return [str(error)]
    total = has[name].total if name in has else 0
    if total >= int(count if count.isdecimal() else 1):
        return []
    return [f"the cluster has {total or 'no'} licence {name!r}, {asked!r} asked for"]


def _tried(name: str, look: Callable[[], str], fault: str = "") -> Check:
    try:
        return Check(name, "ok", look())
    except Exception as error:  # noqa: BLE001 - a doctor reports every fault and has none
        detail = f"{fault}: {error}" if fault else f"{type(error).__name__}: {error}"
        return Check(name, "broken", detail)
