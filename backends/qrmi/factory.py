"""The factory of QRMI's resources; it loads qrmi only when it is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from backends.plugins import PluginUnusable
from backends.registry import BackendPackages
from backends.stated_options import check_names

if TYPE_CHECKING:
    from backends.api import Backend
    from backends.devices.api import FlatDevice
    from backends.site_access import TokenSource

__all__ = ["QrmiFactory", "QrmiOptions", "create"]

_STATED = ("resource", "tasks", "token", "type", "url")
# Types whose payloads are written here, of those that qrmi reaches.
_TYPES = ("iqm-server",)
_TASKS, _MOST_TASKS = 4, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class QrmiOptions:
    """How a resource is reached.

    resource: its name at the server. type: QRMI's. tasks: how many may be open at a time.
    """

    resource: str
    type: str
    url: str
    token: TokenSource
    tasks: int = _TASKS


class QrmiFactory:
    """Creates backends for QRMI's resources; raises `PluginUnusable` for a wrong option."""

    packages: ClassVar[BackendPackages] = BackendPackages(
        requirements=("qrmi>=0.26.4,<0.27",), imports=("qrmi",)
    )
    neutral_options: ClassVar[frozenset[str]] = frozenset({"tasks", "token"})

    def __call__(self, options: Mapping[str, Any], *, state_dir: Path) -> Backend:
        """Return a backend in this process, which must have qrmi."""
        from backends.devices.backend import device_backend

        try:
            device = self.device(options, state_dir=state_dir)
        except ImportError as error:
            raise PluginUnusable(
                f"backend 'qrmi' needs the package qrmi ({error}); run 'hpcqc backends install "
                'qrmi\' and write environment = "managed" in the table of the QPU'
            ) from error
        return device_backend(device)

    def over_wire(self, options: Mapping[str, Any]) -> bool:
        """Return whether a resource is asked: always."""
        return bool(options)

    def device(self, options: Mapping[str, Any], *, state_dir: Path) -> FlatDevice:
        """Open a resource, with its started tasks in the existing folder; connects nowhere."""
        parsed = _parse_options(options)
        from backends.qrmi.device import QrmiDevice
        from backends.qrmi.resource import QrmiCalls

        return QrmiDevice(QrmiCalls(parsed), parsed, state_dir=state_dir)


create = QrmiFactory()


def _parse_options(options: Mapping[str, Any]) -> QrmiOptions:
    from backends.site_access import checked_url, token_from_options

    check_names(options, _STATED, "backend 'qrmi'")
    kind, tasks = options.get("type", _TYPES[0]), options.get("tasks", _TASKS)
    if kind not in _TYPES:
        raise PluginUnusable(
            f"option type = {kind!r:.80}; of QRMI's types this backend takes: {', '.join(_TYPES)}"
        )
    if not isinstance(options.get("resource"), str) or not options["resource"]:
        raise PluginUnusable("backend 'qrmi' needs the option resource, its name at the server")
    if isinstance(tasks, bool) or not isinstance(tasks, int) or not 1 <= tasks <= _MOST_TASKS:
        raise PluginUnusable(f"option tasks = {tasks!r:.80}; give a number from 1 to {_MOST_TASKS}")
    return QrmiOptions(
        resource=options["resource"],
        type=kind,
        url=checked_url(options, "qrmi"),
        token=token_from_options(options, "qrmi"),
        tasks=tasks,
    )
