"""Resources that the Quantum Resource Management Interface reaches, through the package qrmi."""

from backends.qrmi.factory import create

__all__ = ["create"]
