"""Neutral atoms simulated exactly on this machine, without a vendor's SDK."""

from backends.rydberg.factory import create

__all__ = ["create"]
