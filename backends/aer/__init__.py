"""Qiskit Aer as a QPU: ideal, or with a device profile; simulations run in processes."""

from backends.aer.factory import create
from backends.aer.launch import preload

__all__ = ["create", "preload"]
