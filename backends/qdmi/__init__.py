"""Devices of the Quantum Device Management Interface, through the package mqt-core."""

from backends.qdmi.factory import create

__all__ = ["create"]
