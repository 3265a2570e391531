"""Machines and emulators in Pasqal's cloud, by its own protocol."""

from backends.pasqal_cloud.factory import create
from backends.pasqal_cloud.qrmi import QRMI_CLOUD

__all__ = ["QRMI_CLOUD", "create"]
