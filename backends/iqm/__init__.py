"""QPUs behind an IQM Server: its protocol in version 1, spoken over HTTP."""

from backends.iqm.factory import IqmOptions, create

__all__ = ["IqmOptions", "create"]
