"""Finding, reading and overriding the site's configuration."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.plugins import installed, unknown
from backends.simulator import SIMULATOR, built_in_qpus
from backends.site_options import SITE_OPTIONS
from orchestrator.config.environment import (
    broker_from_environment,
    config_dir,
    site_file,
    state_dir,
)
from orchestrator.config.secrets import SecretRef, reference_or_value
from orchestrator.config.site import (
    COMPUTE_KINDS,
    BrokerLimits,
    BrokerSettings,
    ComputeSettings,
    ConfigError,
    QpuSettings,
    ScheduleSettings,
    Site,
    WindowSettings,
)
from orchestrator.config.sizes import size_bytes
from orchestrator.wording import counted

if TYPE_CHECKING:
    from orchestrator.config.schema import ComputeSection, ScheduleSection, SiteFile

__all__ = ["BUILT_IN", "FILE_NAME", "LAPTOP", "load_site", "lookup"]

BUILT_IN = "built-in laptop"
# In the place of a site file: the built-in laptop, whatever there is in the working folder.
LAPTOP = Path("built-in")
FILE_NAME = "hpcqc.toml"
_OWN_COMPUTES = ("local", "shared")


def load_site(
    path: Path | None = None,
    overrides: Sequence[str] = (),
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Site:
    """Read the site that applies: ``path``, else the usual lookup (see `lookup`).

    overrides: ``"qpu.vlq.longest_task_s=60"``; values are TOML, or text where they are not.
    environ, folder: stand in for the process's environment and working folder.
    A site file says everything: QPUs of the built-in laptop are not added to it.

    Raises `ConfigError` naming the file and what to change.
    """
    folder = Path.cwd() if folder is None else folder
    found = lookup(path, environ=environ, folder=folder)
    source = BUILT_IN if found is None else str(found)
    raw = _laptop() if found is None else _read(found)
    _anchor_paths(raw, folder if found is None else found.parent.absolute())
    for override in overrides:
        _apply(raw, override)
    if overrides:
        source = f"{source} with {counted(len(overrides), 'override')}"
        _anchor_paths(raw, folder)

    from orchestrator.config.schema import validated  # Pydantic costs 0.2 s; --help has no need

    checked = validated(raw, source)
    secrets_folder = folder if found is None else found.parent.absolute()
    site = _site(checked, source, secrets_folder, state_dir(environ))
    return replace(site, broker=_broker(checked, secrets_folder, environ))


def lookup(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Path | None:
    """Return the site file that applies, None for the built-in laptop.

    In order: ``path``, ``HPCQC_SITE``, ``./hpcqc.toml``, the user's configuration folder.
    Raises `ConfigError` when one that was named does not exist.
    """
    for named, origin in ((path, "--site"), (site_file(environ), "HPCQC_SITE")):
        if named is not None:
            if named == LAPTOP:
                return None
            if not named.is_file():
                raise ConfigError(f"{origin} names {str(named)!r}, which is not a file")
            return named
    for candidate in ((folder or Path.cwd()) / FILE_NAME, config_dir(environ) / FILE_NAME):
        if candidate.is_file():
            return candidate
    return None


def _laptop() -> dict[str, Any]:
    qpus = built_in_qpus()
    return {
        "site": {"name": "laptop", "default_qpu": next(iter(qpus))},
        "compute": {"local": {"kind": "local"}},
        "qpu": qpus,
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:  # its message ends with line and column
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None


def _apply(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not separator or len(parts) < 2 or not all(parts):
        raise ConfigError(
            f"--set {override!r}: expected SECTION.KEY=VALUE, such as qpu.vlq.longest_task_s=60"
        )
    table = raw
    for depth, part in enumerate(parts[:-1], start=1):
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override!r}: {'.'.join(parts[:depth])} is not a table")
        table = inner
    table[parts[-1]] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _anchor_paths(raw: Mapping[str, Any], folder: Path) -> None:
    """Make paths absolute: they are relative to the file (or folder) that names them."""
    qpus = raw.get("qpu")
    names = [option.name for option in SITE_OPTIONS if option.names_file]
    for section in qpus.values() if isinstance(qpus, dict) else ():
        for name in names if isinstance(section, dict) else ():
            text = section.get(name)
            if isinstance(text, str) and (os.sep in text or text.endswith(".toml")):
                section[name] = str(folder / Path(text).expanduser())


def _site(checked: SiteFile, source: str, folder: Path, state: Path) -> Site:
    computes = {
        name: _compute(name, section, source, folder) for name, section in checked.compute.items()
    } or {"local": ComputeSettings(name="local")}
    if not checked.qpu:
        raise ConfigError(
            f'{source} states no QPU; add at least [qpu.{SIMULATOR}] with backend = "{SIMULATOR}"'
        )
    qpus = {}
    for name, section in checked.qpu.items():
        direct = {option.name: getattr(section, option.name) for option in SITE_OPTIONS}
        given = {key: value for key, value in direct.items() if value is not None}
        twice = sorted(given.keys() & section.options.keys())
        if twice:
            raise ConfigError(
                f"{source}: [qpu.{name}] gives {twice[0]!r} twice, once in its options; keep one"
            )
        options = reference_or_value({**section.options, **given}, folder)
        qpus[name] = QpuSettings(
            name=name,
            backend=section.backend,
            options=options,
            uncertain=section.uncertain,
            longest_task_s=section.longest_task_s,
            schedule=_schedule(section.schedule, folder),
        )
    return Site(
        name=checked.site.name or Path(source).stem,
        default_qpu=_default("qpu", checked.site.default_qpu, qpus, source),
        default_compute=_default("compute", checked.site.default_compute, computes, source),
        qpus=qpus,
        computes=computes,
        state_dir=state,
        source=source,
        keep_days=checked.site.keep_days,
        keep_gib=checked.site.keep_gib,
    )


def _compute(name: str, section: ComputeSection, source: str, folder: Path) -> ComputeSettings:
    if section.kind not in _OWN_COMPUTES:
        known = installed(COMPUTE_KINDS)
        if section.kind not in known:
            error = unknown(section.kind, [*_OWN_COMPUTES, *known], noun="compute kind")
            raise ConfigError(f"{source}: [compute.{name}] kind = {section.kind!r}: {error}")
    return ComputeSettings(
        name=name,
        kind=section.kind,
        workers=section.workers,
        memory_per_worker=section.memory_per_worker,
        options=reference_or_value(section.options, folder),
    )


def _schedule(section: ScheduleSection, folder: Path) -> ScheduleSettings:
    lease, rate = section.lease, section.rate
    windows = [
        WindowSettings(**window.model_dump(exclude={"weekdays"}), weekdays=tuple(window.weekdays))
        for window in section.window
    ]
    return ScheduleSettings(
        policy=section.policy,
        parameters=section.parameters,
        slice_s=section.slice_s,
        rate=None if rate is None else (rate.starts, rate.per_s),
        lease=None if lease is None else (lease.longest_s, lease.idle_s),
        shares=section.shares,
        windows=tuple(windows),
        calendar=None if section.calendar is None else folder / section.calendar,
    )


def _broker(checked: SiteFile, folder: Path, environ: Mapping[str, str] | None) -> BrokerSettings:
    """Return the file's broker; a url in the environment, with its token, comes before it."""
    section = checked.broker
    url, variable = broker_from_environment(environ)
    held = reference_or_value(section.token, folder)
    if section.token is not None and not isinstance(held, SecretRef):
        raise ConfigError(
            "[broker] token is a secret; give a reference instead, "
            'such as { env = "HPCQC_BROKER_TOKEN" } or { file = "PATH" }'
        )
    return BrokerSettings(
        url=url or section.url,
        token=SecretRef(source="env", where=variable) if variable else held,
        project=section.project,
        priority=section.priority,
        ledger=reference_or_value(section.ledger, folder),
        share_results=tuple(section.share_results),
        unix_groups=tuple(section.unix_groups),
        hosts=tuple(section.hosts),
        proxies=tuple(section.proxies),
        limits=BrokerLimits(
            open_jobs_per_user=section.limits.open_jobs_per_user,
            open_jobs_per_project=section.limits.open_jobs_per_project,
            run_budgets_per_user=section.limits.run_budgets_per_user,
            stored_per_user=size_bytes(section.limits.stored_per_user),
            stored_per_project=size_bytes(section.limits.stored_per_project),
            reserve=size_bytes(section.limits.reserve),
        ),
    )


def _default(kind: str, stated: str | None, names: Mapping[str, Any], source: str) -> str:
    if stated is None and len(names) == 1:
        return next(iter(names))
    listed = ", ".join(names)
    if stated is None:
        raise ConfigError(
            f"{source}: [site] lacks default_{kind}, and there are several; choose from: {listed}"
        )
    if stated not in names:
        raise ConfigError(f"{source}: [site] default_{kind} = {stated!r} is not one of: {listed}")
    return stated
