"""The factory of QDMI devices and their options; it loads mqt-core only when it is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from backends.plugins import PluginUnusable
from backends.registry import BackendPackages
from backends.stated_options import check_names

if TYPE_CHECKING:
    from backends.api import Backend
    from backends.devices.api import FlatDevice

__all__ = ["QdmiFactory", "QdmiOptions", "create"]

_TEXTS = ("device", "base_url", "token", "auth_file", "auth_url", "username", "password")


_SIMULATOR = "mqt.ddsim.default"


@dataclass(frozen=True, slots=True, kw_only=True)
class QdmiOptions:
    """Which device is opened, and how.

    device: its id. qubits: most that circuits for a simulator may have; None takes 32, or what the
    device has if that is less. base_url … project_id: of the session, where a device needs them.
    """

    device: str = _SIMULATOR
    qubits: int | None = None
    base_url: str | None = None
    token: str | None = None
    auth_file: str | None = None
    auth_url: str | None = None
    username: str | None = None
    password: str | None = None
    project_id: str | None = None


def _parse_options(options: Mapping[str, Any]) -> QdmiOptions:
    names = [field.name for field in fields(QdmiOptions)]
    check_names(options, names, "backend 'qdmi'")
    for name, value in options.items():
        if name == "qubits":
            if value is not None and not (type(value) is int and value >= 1):
                raise PluginUnusable(f"option qubits = {value!r}; give a whole number ≥ 1")
        elif not isinstance(value, str) or not value:
            raise PluginUnusable(f"option {name} must be a text")  # it may be a secret: not shown
    return QdmiOptions(**options)


class QdmiFactory:
    """Creates backends for QDMI devices; raises `PluginUnusable` for a wrong option."""

    packages: ClassVar[BackendPackages] = BackendPackages(
        requirements=("mqt-core>=4.1.1,<5",), imports=("mqt.core.qdmi",)
    )
    variables: ClassVar[tuple[str, ...]] = (
        "MQT_CORE_QDMI_CONFIG_FILE",
        "MQT_CORE_QDMI_CONFIG_JSON",
        "MQT_CORE_QDMI_DRIVER",
    )

    def __call__(self, options: Mapping[str, Any], *, state_dir: Path) -> Backend:
        """Return a backend in this process, which must have mqt-core."""
        from backends.devices.backend import device_backend

        try:
            device = self.device(options, state_dir=state_dir)
        except ImportError as error:
            raise PluginUnusable(
                f"backend 'qdmi' needs mqt-core, which is not installed here ({error}); install "
                "hpcqc[qdmi], or run 'hpcqc backends install qdmi' and write "
                'environment = "managed" in the table of the QPU'
            ) from error
        return device_backend(device)

    def device(self, options: Mapping[str, Any], *, state_dir: Path) -> FlatDevice:
        """Open a device; needs mqt-core, and neither Qiskit nor NumPy."""
        del state_dir  # the devices of mqt-core remember nothing
        parsed = _parse_options(options)
        from backends.qdmi.device import open_device

        return open_device(parsed)

    def is_ideal(self, options: Mapping[str, Any]) -> bool:
        """Return whether the device is mqt-core's own simulator."""
        return bool(options.get("device", _SIMULATOR) == _SIMULATOR)


create = QdmiFactory()
