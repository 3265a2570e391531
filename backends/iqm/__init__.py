"""QPUs behind an IQM Server: its protocol in version 1, spoken over HTTP."""

from backends.iqm.factory import IqmOptions, create
from backends.iqm.qrmi import QRMI_SERVER

__all__ = ["QRMI_SERVER", "IqmOptions", "create"]
