"""QRMI's configuration file: the variables of each quantum resource, as an operator states them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config.environment import process_environment, variable
from orchestrator.config.errors import ConfigError

__all__ = ["StatedResource", "qrmi_variable", "stated_resources"]

_FILE = Path("/etc/slurm/qrmi_config.json")
_LARGEST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedResource:
    """What the file says of a resource. variables: without the resource's name before them."""

    type: str
    variables: Mapping[str, str]


def stated_resources(environ: Mapping[str, str] | None = None) -> dict[str, StatedResource]:
    """Return the resources of QRMI's file by name.

    The file is ``HPCQC_QRMI_CONFIG``, else ``/etc/slurm/qrmi_config.json`` if this process can read
    it; without a file there are none.

    Raises `ConfigError` if the named file cannot be read, or is not such a file.
    """
    named = variable("HPCQC_QRMI_CONFIG", environ)
    path = Path(named) if named else _FILE
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_LARGEST_BYTES))
        return {str(one["name"]): _stated(one) for one in document["resources"]}
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


def qrmi_variable(name: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Return a variable ``RESOURCE_VARIABLE`` of the environment, else of QRMI's file; None for neither.

    Raises `ConfigError` as `stated_resources` does.
    """
    known = process_environment(environ).get(name)
    if known:
        return known
    for resource, stated in stated_resources(environ).items():
        if name.startswith(f"{resource}_"):
            value = stated.variables.get(name.removeprefix(f"{resource}_"))
            if value:
                return value
    return None


def _stated(entry: Mapping[str, Any]) -> StatedResource:
    own = entry.get("environment")
    variables = own.items() if isinstance(own, dict) else ()
    return StatedResource(
        type=str(entry.get("type") or ""),
        variables={str(key): str(value) for key, value in variables},
    )
