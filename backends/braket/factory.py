"""The factory of Braket's local simulators; it loads the SDK only when it is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from backends.coupling_class import CouplingClass
from backends.plugins import PluginUnusable
from backends.registry import BackendPackages
from backends.stated_options import check_names

if TYPE_CHECKING:
    from backends.api import Backend
    from backends.devices.api import FlatDevice

__all__ = ["BraketFactory", "CloudOptions", "create"]

# State vector, and density matrix.
_SIMULATORS = ("braket_sv", "braket_dm")


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudOptions:
    """Which device of the service is used. arn: its name. bucket, prefix: in S3, for results.

    region: of the service; profile: of the credentials; None takes what the SDK finds.
    endpoint_url, s3_endpoint_url: where the services are not AWS's own. concurrent_tasks: most
    tasks at the service.
    """

    arn: str
    bucket: str
    prefix: str = "hpcqc"
    region: str | None = None
    profile: str | None = None
    endpoint_url: str | None = None
    s3_endpoint_url: str | None = None
    concurrent_tasks: int = 10


class BraketFactory:
    """Creates backends for Braket's devices; raises `PluginUnusable` for a wrong option."""

    packages: ClassVar[BackendPackages] = BackendPackages(
        requirements=("amazon-braket-sdk>=1.127,<2",), imports=("braket.devices", "boto3")
    )
    variables: ClassVar[tuple[str, ...]] = (
        "AWS_ACCESS_KEY_ID",
        "AWS_CA_BUNDLE",
        "AWS_CONFIG_FILE",
        "AWS_DEFAULT_REGION",
        "AWS_PROFILE",
        "AWS_REGION",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_SHARED_CREDENTIALS_FILE",
    )

    def __call__(self, options: Mapping[str, Any], *, state_dir: Path) -> Backend:
        """Return a backend in this process, which must have the SDK."""
        from backends.devices.backend import device_backend

        try:
            device = self.device(options, state_dir=state_dir)
        except ImportError as error:
            raise PluginUnusable(
                f"backend 'braket' needs amazon-braket-sdk, which cannot be installed beside hpcqc "
                f"({error}); run 'hpcqc backends install braket' and write "
                'environment = "managed" in the table of the QPU'
            ) from error
        return device_backend(device)

    def over_wire(self, options: Mapping[str, Any]) -> bool:
        """Return whether it is a device of the service."""
        return "arn" in options

    def coupling_class(self, options: Mapping[str, Any]) -> CouplingClass:
        """Return the coupling class: tasks wait in the queue of a cloud."""
        return "batch" if self.over_wire(options) else "interactive"

    def is_ideal(self, options: Mapping[str, Any]) -> bool:
        """Return whether it is a simulator on this machine, none of which is given errors."""
        return "arn" not in options

    def device(self, options: Mapping[str, Any], *, state_dir: Path) -> FlatDevice:
        """Open a device of the service if ``arn`` is given, else a simulator on this machine.

        Of a simulator, ``simulator`` is the only option, by default ``braket_sv``. Records of a
        device's tasks lie in ``state_dir``.
        """
        if "arn" in options:
            cloud = _parse_cloud(options)
            from backends.braket.cloud import ARN, BraketCloud
            from backends.started_jobs import StartedJobs

            return BraketCloud(cloud, StartedJobs(state_dir / "tasks", job_id=ARN))
        check_names(options, ["simulator"], "backend 'braket'")
        simulator = options.get("simulator", _SIMULATORS[0])
        if simulator not in _SIMULATORS:
            raise PluginUnusable(
                f"option simulator = {simulator!r}; use one of: {', '.join(_SIMULATORS)}"
            )
        from backends.braket.device import BraketSimulator
        from backends.devices.local import LocalDevice

        return LocalDevice(BraketSimulator(simulator))


create = BraketFactory()


def _parse_cloud(options: Mapping[str, Any]) -> CloudOptions:
    names = [field.name for field in fields(CloudOptions)]
    check_names(options, names, "a device in Braket's cloud")
    for name, value in options.items():
        if name == "concurrent_tasks":
            if not (type(value) is int and value >= 1):
                raise PluginUnusable(f"option {name} = {value!r}; give a whole number ≥ 1")
        elif not isinstance(value, str) or not value:
            raise PluginUnusable(f"option {name} = {value!r}; give a text")
    if not options["arn"].startswith("arn:") or "bucket" not in options:
        raise PluginUnusable(
            f"arn = {options['arn']!r} and bucket = {options.get('bucket')!r}; give a device as "
            "'arn:aws:braket:…' and the bucket in S3 for its results"
        )
    return CloudOptions(**options)
