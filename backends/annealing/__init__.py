"""Annealers: simulated ones of the package dwave-samplers, and those of D-Wave's cloud."""

from backends.annealing.factory import create

__all__ = ["create"]
