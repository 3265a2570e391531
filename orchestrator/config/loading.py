"""Finding, reading and overriding the site's configuration."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from backends.plugins import installed, unknown
from backends.secret_text import without_credentials
from backends.simulator import SIMULATOR, built_in_qpus
from backends.site_options import SITE_OPTIONS
from backends.suggestions import did_you_mean
from orchestrator.arguments import expect_texts
from orchestrator.config.environment import (
    broker_from_environment,
    config_dir,
    labels_of_environment,
    site_file,
    state_dir,
)
from orchestrator.config.errors import ConfigError
from orchestrator.config.qrmi import qpu_tables, qrmi_resources
from orchestrator.config.secrets import SecretRef, reference_or_value
from orchestrator.data_labels import JURISDICTION
from orchestrator.names import ANY
from orchestrator.wording import counted

if TYPE_CHECKING:
    from pydantic import BaseModel

    from orchestrator.config.broker_tables import BrokerSettings
    from orchestrator.config.compute_tables import ComputeSettings
    from orchestrator.config.qpu_tables import QpuSettings
    from orchestrator.config.site import Site

__all__ = ["BUILT_IN", "FILE_NAME", "LAPTOP", "label_settings", "load_site", "lookup"]

BUILT_IN = "built-in laptop"
# In the place of a site file: the built-in laptop, whatever there is in the working folder.
LAPTOP = Path("built-in")
FILE_NAME = "hpcqc.toml"
_OWN_COMPUTES = ("local", "shared", "slurm")


def load_site(
    path: Path | str | None = None,
    overrides: Sequence[str] = (),
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Site:
    """Read the site that applies: ``path``, else the usual lookup (see `lookup`).

    overrides: ``"qpu.vlq.longest_task_s=60"``; values are TOML, or text where they are not.
    environ, folder: stand in for the process's environment and working folder.
    QPUs of the built-in laptop are not added to a site file. In a job that has QPU resources of
    QRMI, they are the QPUs where there is no site file, and the first is the default one if the
    site has a QPU of its name.

    Raises `ConfigError` naming the file and what to change.
    """
    expect_texts("settings", overrides, "qpu.vlq.longest_task_s=60")
    folder = Path.cwd() if folder is None else folder
    found = lookup(path, environ=environ, folder=folder)
    source = BUILT_IN if found is None else str(found)
    raw = _laptop() if found is None else _read(found)
    granted = qrmi_resources(environ)
    if granted and found is None and path is None and site_file(environ) is None:
        raw["qpu"], source = qpu_tables(granted), f"{BUILT_IN} with the QPUs of this job"
    own = raw.get("qpu")
    first = next((one.name for one in granted if isinstance(own, dict) and one.name in own), None)
    if first is not None:
        raw["site"] = {**raw.get("site", {}), "default_qpu": first}
    home = folder if found is None else found.parent.absolute()
    _anchor_paths(raw, home)
    for override in overrides:
        stated = _labels(raw)
        _apply(raw, override)
        _keep_labels(raw, stated)
    _keep_labels(raw, labels_of_environment(environ))
    if overrides:
        source = f"{source} with {counted(len(overrides), 'override')}"
        _anchor_paths(raw, folder)
    _refer_to_secrets(raw, home)
    site = _site(raw, source, environ)
    if site.broker.url is not None:
        site.link_of(site.broker.url)
    return site


def label_settings(labels: Sequence[str]) -> list[str]:
    """Return the change to a site that gives all data these labels.

    >>> label_settings(["embargoed"]), label_settings(())
    (['site.labels=["embargoed"]'], [])
    """
    return [f"site.labels={json.dumps(list(labels))}"] if labels else []


def lookup(
    path: Path | str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Path | None:
    """Return the site file that applies, None for the built-in laptop.

    In order: ``path``, ``HPCQC_SITE``, ``./hpcqc.toml``, the user's configuration folder.
    Raises `ConfigError` when one that was named does not exist, and for one in the working folder
    that another user has put there.
    """
    given = None if path is None else Path(path).expanduser()
    for named, origin in ((given, "the site file"), (site_file(environ), "HPCQC_SITE")):
        if named is not None:
            if named == LAPTOP:
                return None
            if not named.is_file():
                raise ConfigError(
                    f"{origin} is {str(named)!r}, which is not a file; give the path of a site "
                    f"file, or '{LAPTOP}' for the built-in site"
                )
            return named
    for candidate in ((folder or Path.cwd()) / FILE_NAME, config_dir(environ) / FILE_NAME):
        if candidate.is_file():
            _check_owner(candidate)
            return candidate
    return None


def _check_owner(found: Path) -> None:
    """Refuse a file that nobody named and another user owns: a site file can run programs."""
    for owner in (found.lstat().st_uid, found.stat().st_uid):
        if owner not in (0, os.geteuid()):
            raise ConfigError(
                f"{found} belongs to user id {owner}, who could run programs as you by it; if you "
                f"trust that user, name the file with --site, or --site {LAPTOP} to leave it"
            )


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
        raise ConfigError(
            f"{path} is not valid TOML: {error}; correct it there, or start from the output of "
            f"`hpcqc config show --site {LAPTOP}`"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; let this user read it, or name another file"
        ) from None


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


def _labels(raw: Mapping[str, Any]) -> list[Any]:
    table = raw.get("site")
    if not isinstance(table, dict):
        return []
    labels, place = table.get("labels"), table.get("jurisdiction")
    stated = labels if isinstance(labels, list) else []
    return [*stated, *([f"{JURISDICTION}{place}"] if isinstance(place, str) else [])]


def _keep_labels(raw: dict[str, Any], labels: list[Any]) -> None:
    """Add labels of all data to those that are there: what a file states, no override takes away."""
    table = raw.setdefault("site", {})
    if labels and isinstance(table, dict) and isinstance(table.get("labels", []), list):
        table["labels"] = [*labels, *(one for one in table.get("labels", []) if one not in labels)]


def _toml_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _tables(raw: Any, *names: str) -> Iterator[dict[str, Any]]:
    """Yield the tables at a path, ``*`` for every name; what is not a table is left out."""
    if not names:
        yield from [raw] if isinstance(raw, dict) else ()
    elif isinstance(raw, dict):
        for inner in raw.values() if names[0] == "*" else [raw.get(names[0])]:
            yield from _tables(inner, *names[1:])


def _anchor_paths(raw: Mapping[str, Any], folder: Path) -> None:
    """Make paths absolute: they are relative to the file (or folder) that names them."""
    for table in _tables(raw, "qpu", "*"):
        for name in [option.name for option in SITE_OPTIONS if option.names_file]:
            text = table.get(name)
            if isinstance(text, str) and (os.sep in text or text.endswith(".toml")):
                table[name] = str(folder / Path(text).expanduser())
        interpreter = table.get("environment")
        if isinstance(interpreter, str) and os.sep in interpreter:
            table["environment"] = str(folder / Path(interpreter).expanduser())
    for table in _tables(raw, "link", "*"):
        for name in ("certificate", "key", "authority"):
            if isinstance(table.get(name), str):
                table[name] = str(folder / Path(table[name]).expanduser())


def _refer_to_secrets(raw: Mapping[str, Any], folder: Path) -> None:
    """Put a `SecretRef` for each reference, and make the paths of calendars absolute."""
    places = [
        *((table, "options") for kind in ("qpu", "compute") for table in _tables(raw, kind, "*")),
        *((table, key) for table in _tables(raw, "broker") for key in ("token", "ledger")),
    ]
    for table, key in places:
        if key in table:
            table[key] = reference_or_value(table[key], folder)
    for schedule in _tables(raw, "qpu", "*", "schedule"):
        if isinstance(schedule.get("calendar"), str):
            schedule["calendar"] = folder / schedule["calendar"]


def _site(raw: Mapping[str, Any], source: str, environ: Mapping[str, str] | None) -> Site:
    from pydantic import ValidationError

    from orchestrator.config.compute_tables import ComputeSettings
    from orchestrator.config.site import Site, SiteFile

    try:
        checked = SiteFile.model_validate(raw)
    except ValidationError as error:
        faults = [without_credentials(_sentence(fault)) for fault in error.errors()]
        raise ConfigError(f"{source}: {'; '.join(faults)}") from None
    computes = {
        name: ComputeSettings(name=name, **dict(table)) for name, table in checked.compute.items()
    } or {"local": ComputeSettings(name="local")}
    for settings in computes.values():
        _check_kind(settings, source)
    if not checked.qpu:
        raise ConfigError(
            f'{source} states no QPU; add at least [qpu.{SIMULATOR}] with backend = "{SIMULATOR}"'
        )
    if ANY in checked.qpu:
        raise ConfigError(f"{source}: [qpu.{ANY}]: this name stands for a choice; use another one")
    qpus = {name: _qpu(name, table, source) for name, table in checked.qpu.items()}
    site = checked.site
    found = Site(
        **dict(site)
        | {
            "name": site.name or Path(source).stem,
            "default_qpu": _default("qpu", site.default_qpu, qpus, source),
            "default_compute": _default("compute", site.default_compute, computes, source),
        },
        qpus=qpus,
        computes=computes,
        state_dir=state_dir(environ),
        source=source,
        broker=_broker(checked.broker, source, environ),
        batch=checked.batch,
        projects=checked.project,
        links=checked.link,
        choice=checked.choice,
    )
    return found.model_copy(update={"qpus": {n: _linked(found, q) for n, q in qpus.items()}})


def _linked(site: Site, qpu: QpuSettings) -> QpuSettings:
    """Return a QPU of another site with the link that its url names among its options."""
    url = qpu.options.get("url")
    link = site.link_of(url) if qpu.backend == "hpcqc" and isinstance(url, str) else None
    if link is None:
        return qpu
    return qpu.model_copy(update={"options": {**qpu.options, "link": link.to_plain()}})


def _qpu(name: str, table: BaseModel, source: str) -> QpuSettings:
    """Return a QPU; options with a key of their own in its table join the others."""
    from orchestrator.config.qpu_tables import QpuSettings

    stated = dict(table)
    direct = {one.name: stated.pop(one.name) for one in SITE_OPTIONS}
    given = {key: value for key, value in direct.items() if value is not None}
    twice = sorted(given.keys() & stated["options"].keys())
    if twice:
        raise ConfigError(
            f"{source}: [qpu.{name}] gives {twice[0]!r} twice, once in its options; keep one"
        )
    return QpuSettings(name=name, **stated | {"options": {**stated["options"], **given}})


def _check_kind(settings: ComputeSettings, source: str) -> None:
    from orchestrator.config.compute_tables import COMPUTE_KINDS

    if settings.kind in _OWN_COMPUTES:
        return
    known = installed(COMPUTE_KINDS)
    if settings.kind not in known:
        error = unknown(settings.kind, [*_OWN_COMPUTES, *known], noun="compute kind")
        raise ConfigError(f"{source}: [compute.{settings.name}] kind = {settings.kind!r}: {error}")


def _broker(
    stated: BrokerSettings, source: str, environ: Mapping[str, str] | None
) -> BrokerSettings:
    """Return the file's broker; a url in the environment, with its token, comes before it."""
    url, variable = broker_from_environment(environ)
    chosen = url or stated.url or ""
    if without_credentials(chosen) != chosen:  # it would be in every record
        origin = "HPCQC_BROKER_URL" if url else f"{source}: [broker] url"
        raise ConfigError(
            f"{origin} = {without_credentials(chosen)!r} has a user name or a password; a broker "
            "takes a token alone: give that as `token`, or in HPCQC_BROKER_TOKEN"
        )
    token = SecretRef(source="env", where=variable) if variable else stated.token
    return stated.model_copy(update={"url": url or stated.url, "token": token})


def _default(kind: str, stated: str | None, names: Mapping[str, Any], source: str) -> str:
    if stated is None and len(names) == 1:
        return next(iter(names))
    listed = ", ".join(names)
    if stated is None:
        raise ConfigError(
            f"{source}: [site] lacks default_{kind}, and there are several; choose from: {listed}"
        )
    if stated not in names and (kind, stated) != ("qpu", ANY):
        raise ConfigError(f"{source}: [site] default_{kind} = {stated!r} is not one of: {listed}")
    return stated


# What Pydantic would call by the names of Python types.
_KINDS = {"model_type": "a table", "dict_type": "a table", "path_type": "a path"}


def _sentence(fault: Any) -> str:
    location = [str(part) for part in fault["loc"]]
    *section, key = location
    table = f"[{'.'.join(section)}]" if section else "the file"
    if fault["type"] == "extra_forbidden":
        allowed = list(_model_of(section).model_fields)
        hint = did_you_mean(key, allowed) or f"; it takes: {', '.join(allowed)}"
        return f"unknown key {key!r} in {table}{hint}"
    if fault["type"] == "missing":
        return f"{table} lacks the key {key!r}"
    if fault["type"] == "value_error":  # a sentence of our own about a whole table
        return f"[{'.'.join(location)}]: {fault['ctx']['error']}"
    if key == "[key]":
        kind, name = section
        return f"invalid name {name!r:.120} of a {kind}: use one line of 1-100 characters"
    given = fault["input"]
    stated = f"{table} {key} = {str(given).lower() if isinstance(given, bool) else repr(given)}"
    # A time's expectation has examples of its own.
    example = "" if fault["type"] == "duration" else _example(section, key)
    if fault["type"] in ("string_pattern_mismatch", "size", "environment") and example:
        return f"{stated}; give one such as {example}"
    expectation = _KINDS.get(fault["type"]) or fault["msg"].removeprefix("Input should be ")
    return f"{stated}; it should be {expectation}{', such as ' * bool(example)}{example}"


def _example(section: list[str], key: str) -> str:
    """Return what could stand for a key, as TOML; nothing where that is not known."""
    fields = _model_of(section).model_fields
    named = next((name for name in (key, *reversed(section)) if name in fields), None)
    if named is None:
        return ""
    examples, default = fields[named].examples, fields[named].default
    known = default if isinstance(default, (int, float)) and default else ""
    return str(examples[0]) if examples else f"{known:g}" if known else ""


def _model_of(section: list[str]) -> type[BaseModel]:
    """Return what a table is: names of tables and places in lists lead to the next model."""
    from orchestrator.config.site import SiteFile

    model: type[BaseModel] = SiteFile
    for part in section:
        field = model.model_fields.get(part)
        model = (field and _table_in(field.annotation)) or model
    return model


def _table_in(annotation: Any) -> type[BaseModel] | None:
    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_table_in(argument) for argument in get_args(annotation))
    return next((table for table in inner if table is not None), None)
