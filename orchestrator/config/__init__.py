"""A site as data: configuration files and the environment, read into frozen values."""

from orchestrator.config.environment import run_id_from_environment
from orchestrator.config.loading import load_site
from orchestrator.config.secrets import SecretRef, resolve_secrets
from orchestrator.config.shared_cluster import SharedCluster, shared_cluster
from orchestrator.config.site import (
    COMPUTE_KINDS,
    BrokerLimits,
    BrokerSettings,
    ComputeSettings,
    ConfigError,
    QpuSettings,
    ScheduleSettings,
    Site,
    WindowSettings,
)
from orchestrator.config.sizes import size_bytes

__all__ = [
    "COMPUTE_KINDS",
    "BrokerLimits",
    "BrokerSettings",
    "ComputeSettings",
    "ConfigError",
    "QpuSettings",
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
