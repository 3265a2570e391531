"""A site as data: configuration files and the environment, read into frozen values.

Everything is loaded when it is first used: Pydantic takes 0.2 s, and ``--help`` has no need of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.config.bounds import LeaseBounds, Rate
    from orchestrator.config.cluster import SharedCluster, shared_cluster
    from orchestrator.config.environment import run_id_from_environment
    from orchestrator.config.errors import ConfigError
    from orchestrator.config.loading import load_site
    from orchestrator.config.secrets import SecretRef, resolve_secrets
    from orchestrator.config.site import (
        COMPUTE_KINDS,
        BrokerLimits,
        BrokerSettings,
        ComputeSettings,
        QpuSettings,
        ScheduleSettings,
        Site,
        WindowSettings,
        size_bytes,
    )

__all__ = [
    "COMPUTE_KINDS",
    "BrokerLimits",
    "BrokerSettings",
    "ComputeSettings",
    "ConfigError",
    "LeaseBounds",
    "QpuSettings",
    "Rate",
    "ScheduleSettings",
    "SecretRef",
    "SharedCluster",
    "Site",
    "WindowSettings",
    "load_site",
    "resolve_secrets",
    "run_id_from_environment",
    "shared_cluster",
    "size_bytes",
]

_MODULES = {
    "ConfigError": "errors",
    "LeaseBounds": "bounds",
    "Rate": "bounds",
    "SecretRef": "secrets",
    "SharedCluster": "cluster",
    "load_site": "loading",
    "resolve_secrets": "secrets",
    "run_id_from_environment": "environment",
    "shared_cluster": "cluster",
}


def __getattr__(name: str) -> Any:
    """Load a name on its first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_MODULES.get(name, 'site')}")
    return globals().setdefault(name, getattr(module, name))
