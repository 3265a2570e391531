"""Qiskit Aer as a QPU: ideal, or wearing a device profile; simulations run in processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backends.aer.factory import create
from backends.aer.launch import preload

if TYPE_CHECKING:
    from backends.aer.backend import AerBackend

__all__ = ["AerBackend", "create", "preload"]


def __getattr__(name: str) -> Any:
    """Load the backend, and Qiskit with it, when it is asked for: `preload` must not wait."""
    if name == "AerBackend":
        from backends.aer.backend import AerBackend

        return AerBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
