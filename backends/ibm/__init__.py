"""IBM's devices: its fake ones on this machine, and those of its service."""

from backends.ibm.factory import create
from backends.ibm.qrmi import QRMI_SERVICE, QRMI_SERVICE_BEFORE

__all__ = ["QRMI_SERVICE", "QRMI_SERVICE_BEFORE", "create"]
