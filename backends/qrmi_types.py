"""Types of QRMI's resources that backends speak, registered by packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from backends.plugins import PluginUnusable, installed, load

__all__ = ["QRMI_TYPES", "QrmiType", "qrmi_type"]

QRMI_TYPES = "hpcqc.qrmi_types"


def _unchanged(name: str) -> str:
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class QrmiType:
    """How a backend takes what QRMI says of a resource. Its entry point has the name of the type.

    A resource of this type needs all of the variables, which QRMI's plugin for Slurm sets in a job,
    with the resource's name and ``_`` before them.

    Attributes:
        backend: Name of the backend.
        options: The option that takes the value, by QRMI's variable.
        secrets: Likewise, for values that nobody may see.
        resource: The option that takes the name of the resource; None if none does.
        resource_name: What that option takes, of the resource's name in the job.
    """

    backend: str
    options: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    resource: str | None = None
    resource_name: Callable[[str], str] = _unchanged


def qrmi_type(name: str) -> QrmiType | None:
    """Return how a backend speaks to resources of a type; None if no installed one does.

    Raises `PluginUnusable` if the package that does cannot be imported, or registers something else.
    """
    if name not in installed(QRMI_TYPES):
        return None
    found = load(QRMI_TYPES, name, noun="type of QRMI's resources")
    if not isinstance(found, QrmiType):
        raise PluginUnusable(
            f"the entry point {name!r} in {QRMI_TYPES} is {found!r:.100}; expected a QrmiType of "
            "backends.qrmi_types"
        )
    return found
