"""IBM's devices: its fake ones on this machine, and those of its service."""

from backends.ibm.factory import create

__all__ = ["create"]
