"""The factory of IBM's devices and their options; it loads IBM's client only when it is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from backends.plugins import PluginUnusable
from backends.registry import BackendPackages
from backends.suggestions import did_you_mean

if TYPE_CHECKING:
    from backends.api import Backend

__all__ = ["IbmFactory", "OfflineOptions", "create"]

_NAME = "ibm"
_OFFLINE = "fake_"
_OFFLINE_OPTIONS = ("device", "noise")


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineOptions:
    """Which fake device is simulated. noise: that of the device's snapshot, or none."""

    device: str
    noise: bool = True


class IbmFactory:
    """Creates backends for IBM's devices; raises `PluginUnusable` for a wrong option."""

    packages: ClassVar[BackendPackages] = BackendPackages(
        requirements=(
            "qiskit-ibm-runtime>=0.51,<0.52",
            "qiskit>=2.4,<2.7",
            "qiskit-aer>=0.17.2,<0.19",
            "pydantic>=2.10,<3",
            "httpx>=0.27,<1",
        ),
        imports=("qiskit_ibm_runtime.executor_sampler", "qiskit_aer", "pydantic", "httpx"),
    )

    def __call__(self, options: Mapping[str, Any], *, state_dir: Path) -> Backend:
        """Return a device; a fake one if its name begins with ``fake_``."""
        del state_dir
        offline = _parse_offline(options)
        try:
            from backends.ibm.offline import open_offline
        except ImportError as error:
            raise PluginUnusable(
                f"backend {_NAME!r} needs qiskit-ibm-runtime ({error}); install hpcqc[ibm], or run "
                f"'hpcqc backends install {_NAME}' and write environment = \"managed\" in the table "
                "of the QPU"
            ) from error
        return open_offline(offline)


create = IbmFactory()


def _parse_offline(options: Mapping[str, Any]) -> OfflineOptions:
    for name in options:
        if name not in _OFFLINE_OPTIONS:
            raise PluginUnusable(
                f"unknown option {name!r} of a fake device of backend {_NAME!r}; there are: "
                f"{', '.join(_OFFLINE_OPTIONS)}{did_you_mean(name, _OFFLINE_OPTIONS)}"
            )
    device = options.get("device")
    if not isinstance(device, str) or not device.startswith(_OFFLINE):
        raise PluginUnusable(
            f"backend {_NAME!r} needs the name of a device, such as device = 'fake_manila'; got "
            f"{device!r}"
        )
    noise = options.get("noise", True)
    if not isinstance(noise, bool):
        raise PluginUnusable(f"option noise = {noise!r}; give true or false")
    return OfflineOptions(device=device, noise=noise)
