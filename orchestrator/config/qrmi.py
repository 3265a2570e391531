"""QPUs that a batch job was given through QRMI's plugins, from its environment and their file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.plugins import installed
from backends.suggestions import did_you_mean
from orchestrator.config.environment import process_environment, variable
from orchestrator.config.errors import ConfigError

__all__ = ["QrmiResource", "qpu_tables", "qrmi_resources"]

_BACKENDS = "orchestrator.backends"
_RESOURCES = ("QRMI_JOB_QPU_RESOURCES", "SLURM_JOB_QPU_RESOURCES")
_TYPES = ("QRMI_JOB_QPU_TYPES", "SLURM_JOB_QPU_TYPES")
_FILE = Path("/etc/slurm/qrmi_config.json")
# Of the environment of a resource, by which an operator says what stands for it here.
_BACKEND, _OPTIONS = "HPCQC_BACKEND", "HPCQC_OPTIONS"
_LARGEST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class QrmiResource:
    """A quantum resource of this job. type: as QRMI names it. settings: its own variables."""

    name: str
    type: str
    settings: Mapping[str, str] = field(default_factory=dict)


def qrmi_resources(environ: Mapping[str, str] | None = None) -> list[QrmiResource]:
    """Return the resources that this job was given, none outside such a job.

    A variable ``NAME_VARIABLE`` of the environment comes before what QRMI's file says of the
    resource. The file is ``HPCQC_QRMI_CONFIG``, else ``/etc/slurm/qrmi_config.json`` if this
    process can read it.

    Raises `ConfigError` if the variables contradict each other, or the named file is invalid.

    >>> qrmi_resources({"QRMI_JOB_QPU_RESOURCES": "a", "QRMI_JOB_QPU_TYPES": "iqm-server"})
    [QrmiResource(name='a', type='iqm-server', settings={})]
    """
    known = process_environment(environ)
    names, types = (_listed(known, variables) for variables in (_RESOURCES, _TYPES))
    if not names:
        return []
    if len(names) != len(types):
        raise ConfigError(
            f"{_RESOURCES[0]} names {len(names)} resources and {_TYPES[0]} {len(types)} types; "
            "QRMI's plugin sets one type for each resource"
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"{_RESOURCES[0]}={','.join(names)} names a resource twice")
    stated = _of_file(known)
    return [
        QrmiResource(name=name, type=type_, settings=stated.get(name, {}) | _own(known, name))
        for name, type_ in zip(names, types, strict=True)
    ]


def qpu_tables(resources: list[QrmiResource]) -> dict[str, dict[str, Any]]:
    """Return the tables ``[qpu.NAME]`` of resources, as a site file would have them.

    Raises `ConfigError` for one that no installed backend stands for.
    """
    return {one.name: _table(one) for one in resources}


def _table(resource: QrmiResource) -> dict[str, Any]:
    known, stated = installed(_BACKENDS), resource.settings.get(_BACKEND)
    what = f"the QPU resource {resource.name!r} of this job (QRMI's type {resource.type!r})"
    if stated is None:
        raise ConfigError(
            f"{what} has no backend: hpcqc has none for this type. Name one in a site file, "
            f"[qpu.{json.dumps(resource.name)}] backend = …, or let the operator add {_BACKEND} to "
            f"the resource's environment in qrmi_config.json; installed: {', '.join(known)}"
        )
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


def _of_file(known: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the environment of each resource of QRMI's file."""
    named = variable("HPCQC_QRMI_CONFIG", known)
    path = Path(named) if named else _FILE
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_LARGEST_BYTES))
        return {
            str(one["name"]): {str(key): str(value) for key, value in one["environment"].items()}
            for one in document["resources"]
            if isinstance(one.get("environment"), dict)
        }
    except OSError as error:
        if named:
            raise ConfigError(
                f"HPCQC_QRMI_CONFIG names {named!r}, which cannot be read: {error.strerror}"
            ) from None
        return {}  # nodes where the plugin does not run need none
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"{path} is not a configuration file of QRMI; expected "
            '{"resources": [{"name": …, "type": …, "environment": {…}}]}'
        ) from None
