"""The installed backends, and the environments that hpcqc makes for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backends import registry
from backends.child.managed import ManagedEnvironment, managed_environment
from backends.plugins import PluginUnusable
from orchestrator.config.backend_environments import environments_folder
from orchestrator.config.private import close_to_others

__all__ = ["InstalledBackend", "install_backend", "installed_backends"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledBackend:
    """A backend that a site may name.

    object: the factory. package, version: that brings it. environment: what was made for it by
    `install_backend`, None if nothing was. fault: why its environment cannot be used.
    """

    name: str
    object: str
    package: str | None
    version: str | None
    environment: ManagedEnvironment | None
    fault: str | None = None


def installed_backends() -> list[InstalledBackend]:
    """List the backends that a site may name: hpcqc's own and other packages'.

    Returns:
        One entry for each, sorted by name. No backend is imported.
    """
    listed = []
    for name, point in registry.available().items():
        environment, fault = None, None
        try:
            environment = managed_environment(environments_folder(), name)
        except PluginUnusable as error:
            fault = str(error)
        listed.append(
            InstalledBackend(
                name=name,
                object=point.value,
                package=point.dist.metadata["Name"] if point.dist else None,
                version=point.dist.version if point.dist else None,
                environment=environment,
                fault=fault,
            )
        )
    return listed


def install_backend(
    name: str,
    *,
    upgrade: bool = False,
    lock: Path | None = None,
    progress: Callable[[str], None] = lambda _text: None,
) -> ManagedEnvironment:
    """Make the environment that ``environment = "managed"`` names for a backend.

    It lies in the state folder, and nobody else can write to it. One that is there already stays
    as it is. Takes minutes for large SDKs.

    Args:
        name: The backend.
        upgrade: Make it anew with the newest packages.
        lock: Lock file of another environment (``lock.txt`` in its folder): make exactly the same.
        progress: Called with each step, as a short text.

    Returns:
        The environment with the versions of its packages.

    Raises:
        InstallationFailed: A step failed; an earlier environment is unchanged.
        UnknownPlugin: No installed package registers this backend.
        PluginUnusable: The backend needs no environment, or others can write to the folder.
        ConfigError: Others can enter the state folder, or replace it.
    """
    from backends.child.installation import install

    folder = environments_folder()
    close_to_others(folder.parent)
    return install(name, folder, lock=lock, upgrade=upgrade, progress=progress)
