"""Pulser's emulator of neutral atoms, through the package pulser-simulation."""

from backends.pasqal.factory import create

__all__ = ["create"]
