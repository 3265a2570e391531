"""Annealers: simulated ones of the package dwave-samplers, and those of D-Wave's cloud."""

__all__: list[str] = []
