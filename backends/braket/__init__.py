"""Amazon Braket's simulators on this machine, through the package amazon-braket-sdk."""

from backends.braket.factory import create

__all__ = ["create"]
