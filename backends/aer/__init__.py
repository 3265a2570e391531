"""Qiskit Aer as a QPU: ideal, or wearing a device profile; simulations run in processes."""

from backends.aer.backend import AerBackend, create

__all__ = ["AerBackend", "create"]
