"""Axes in which qubits are measured, by a circuit whose last angles choose them."""

from __future__ import annotations

import math

__all__ = ["TURNS_TO_Z"]

# Rotations about x, then y, that turn an axis into z, in which a QPU measures.
TURNS_TO_Z = {"X": (0.0, -math.pi / 2), "Y": (math.pi / 2, 0.0), "Z": (0.0, 0.0)}
