"""QPUs that a batch job was given through QRMI's plugins, from its environment and their file."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from backends.plugins import PluginUnusable, installed
from backends.qrmi_types import QRMI_TYPES, QrmiType, qrmi_type
from backends.suggestions import did_you_mean
from orchestrator.config.environment import process_environment
from orchestrator.config.errors import ConfigError
from orchestrator.config.qrmi_file import stated_resources
from orchestrator.config.secrets import SecretRef

__all__ = ["QrmiResource", "program_environment", "qpu_tables", "qrmi_resources"]

_BACKENDS = "orchestrator.backends"
_RESOURCES = ("QRMI_JOB_QPU_RESOURCES", "SLURM_JOB_QPU_RESOURCES")
_TYPES = ("QRMI_JOB_QPU_TYPES", "SLURM_JOB_QPU_TYPES")
# Of the environment of a resource, by which an operator says what stands for it here.
_BACKEND, _OPTIONS = "HPCQC_BACKEND", "HPCQC_OPTIONS"


@dataclass(frozen=True, slots=True, kw_only=True)
class QrmiResource:
    """A quantum resource of this job. type: as QRMI names it. settings: its variables' values."""

    name: str
    type: str
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)  # tokens are among them


def qrmi_resources(environ: Mapping[str, str] | None = None) -> list[QrmiResource]:
    """Return the resources that this job was given, none outside such a job.

    A variable ``NAME_VARIABLE`` of the environment comes before what QRMI's file says of the
    resource, and the list of types before the file's; see `stated_resources`.

    Raises `ConfigError` if the variables contradict each other, or the named file is invalid.

    >>> qrmi_resources({"QRMI_JOB_QPU_RESOURCES": "a", "QRMI_JOB_QPU_TYPES": "iqm-server"})
    [QrmiResource(name='a', type='iqm-server')]
    """
    known = process_environment(environ)
    names, types = (_listed(known, variables) for variables in (_RESOURCES, _TYPES))
    if not names:
        return []
    if len(set(names)) < len(names):
        raise ConfigError(f"{_RESOURCES[0]}={','.join(names)} names a resource twice")
    stated = stated_resources(known)
    types = types or [stated[name].type if name in stated else "" for name in names]
    if len(names) != len(types):
        raise ConfigError(
            f"{_RESOURCES[0]} names {len(names)} resources and {_TYPES[0]} {len(types)} types; "
            "QRMI's plugin sets one type for each resource"
        )
    return [
        QrmiResource(
            name=name,
            type=type_,
            settings={**(stated[name].variables if name in stated else {}), **_own(known, name)},
        )
        for name, type_ in zip(names, types, strict=True)
    ]


def qpu_tables(resources: list[QrmiResource]) -> dict[str, dict[str, Any]]:
    """Return the tables ``[qpu.NAME]`` of resources, as a site file would have them.

    Raises `ConfigError` for one that no installed backend stands for.
    """
    return {one.name: _table(one) for one in resources}


def program_environment(
    environ: Mapping[str, str], qpus: Collection[str] | None = None
) -> dict[str, str]:
    """Return the environment of a program that may use QPUs through QRMI.

    Variables of other resources, which a shell may have left, are taken out.

    Args:
        environ: Of this process, which the others of the variables are from.
        qpus: Names of resources that this process's job was given; None for all of them.

    Raises `ConfigError` if the job was not given one of them, or as `qrmi_resources` does.

    >>> job = {"QRMI_JOB_QPU_RESOURCES": "a,b", "QRMI_JOB_QPU_TYPES": "s,t", "a_QRMI_URL": "u"}
    >>> program_environment({**job, "PATH": "/bin", "old_QRMI_TOKEN": "x"}, ["b"])
    {'PATH': '/bin', 'QRMI_JOB_QPU_RESOURCES': 'b', 'QRMI_JOB_QPU_TYPES': 't', 'SLURM_JOB_QPU_RESOURCES': 'b', 'SLURM_JOB_QPU_TYPES': 't'}
    """
    granted = {one.name: one for one in qrmi_resources(environ)}
    absent = [name for name in qpus or () if name not in granted]
    if absent:
        raise ConfigError(
            f"qpus={absent}: this process's Slurm job was not given them through QRMI; it has: "
            f"{', '.join(granted) or 'none'}"
        )
    kept = {name: value for name, value in environ.items() if not _is_qrmis(name)}
    chosen = [one for name, one in granted.items() if qpus is None or name in qpus]
    if not chosen:
        return kept
    names, types = (
        ",".join(listed) for listed in zip(*((c.name, c.type) for c in chosen), strict=True)
    )
    lists = dict.fromkeys(_RESOURCES, names) | dict.fromkeys(_TYPES, types)
    own = {
        f"{one.name}_{variable}": value
        for one in chosen
        for variable, value in one.settings.items()
        if variable.startswith("QRMI_")
    }
    return kept | dict(sorted(lists.items())) | own


def _is_qrmis(variable: str) -> bool:
    of_a_resource = "_QRMI_" in variable and not variable.startswith("HPCQC_")
    return variable in (*_RESOURCES, *_TYPES) or of_a_resource


def _table(resource: QrmiResource) -> dict[str, Any]:
    what = f"the QPU resource {resource.name!r} of this job (QRMI's type {resource.type!r})"
    if resource.settings.get(_BACKEND):
        return _stated_table(resource, what)
    if not resource.type:
        raise ConfigError(
            f"the QPU resource {resource.name!r} of this job has no type: {_TYPES[0]} is not set, and "
            "qrmi_config.json does not have the resource; QRMI's plugin sets one type for each"
        )
    try:
        spoken = qrmi_type(resource.type)
    except PluginUnusable as error:
        raise ConfigError(f"{what} has no backend: {error}") from None
    if spoken is not None:
        return _spoken_table(resource, spoken, what)
    types = ", ".join(installed(QRMI_TYPES)) or "none"
    raise ConfigError(
        f"{what} has no backend: the installed ones speak the types: {types}. Install one that "
        f"does, or name one in a site file, [qpu.{json.dumps(resource.name)}] backend = …, or let "
        f"the operator add {_BACKEND} to the resource's environment in qrmi_config.json; installed: "
        f"{', '.join(installed(_BACKENDS))}"
    )


def _spoken_table(resource: QrmiResource, spoken: QrmiType, what: str) -> dict[str, Any]:
    """Return the table of a resource whose type a backend speaks."""
    needed = [*spoken.options, *spoken.secrets]
    missing = [f"{resource.name}_{name}" for name in needed if not resource.settings.get(name)]
    if missing:
        raise ConfigError(
            f"{what} lacks {', '.join(missing)}: neither the environment nor qrmi_config.json has "
            "it; export it before the job is submitted, or ask the operator to add it to the file"
        )
    options: dict[str, Any] = {
        option: resource.settings[name] for name, option in spoken.options.items()
    }
    options |= {
        option: SecretRef(source="qrmi", where=f"{resource.name}_{name}")
        for name, option in spoken.secrets.items()
    }
    if spoken.resource is not None:
        options[spoken.resource] = spoken.resource_name(resource.name)
    return {"backend": spoken.backend, "options": options}


def _stated_table(resource: QrmiResource, what: str) -> dict[str, Any]:
    """Return the table of a resource for which the operator names a backend."""
    known, stated = installed(_BACKENDS), resource.settings[_BACKEND]
    if stated not in known:
        raise ConfigError(
            f"{what} names {_BACKEND}={stated!r}, which is not installed; installed: "
            f"{', '.join(known)}{did_you_mean(stated, known)}"
        )
    text = resource.settings.get(_OPTIONS, "{}")
    try:
        options = json.loads(text)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise ConfigError(
            f"{what} has {_OPTIONS}={text!r:.200}; expected a JSON object, such as "
            '{"profile": "vlq"}'
        )
    return {"backend": stated, "options": options}


def _listed(known: Mapping[str, str], variables: tuple[str, ...]) -> list[str]:
    stated = next((known[name] for name in variables if known.get(name)), "")
    return [part.strip() for part in stated.split(",") if part.strip()]


def _own(known: Mapping[str, str], name: str) -> dict[str, str]:
    """Return the variables of a resource; QRMI's plugin puts its name before them."""
    prefix = f"{name}_"
    found = {key.removeprefix(prefix): v for key, v in known.items() if key.startswith(prefix)}
    return {key: value for key, value in found.items() if key.startswith(("QRMI_", "HPCQC_"))}
