"""Machines of Pasqal behind a Warden, by its own protocol."""

from backends.warden.factory import create
from backends.warden.qrmi import QRMI_LOCAL

__all__ = ["QRMI_LOCAL", "create"]
