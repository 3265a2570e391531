"""Profile files that tests write, and what their gates must at least err."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
from qiskit.quantum_info import SuperOp, average_gate_fidelity
from qiskit_aer.noise import thermal_relaxation_error


def profile_with(folder: Path, metering: str) -> str:
    """Write helmi's profile with another table ``[metering]``; return its path."""
    text = files("backends.profiles").joinpath("helmi.toml").read_text(encoding="utf-8")
    start = text.index("[metering]")
    end = text.index("[", start + 1)
    kept = [line for line in text[end:].splitlines() if not line.startswith('"metering.')]
    path = folder / "own.toml"
    path.write_text(text[:start] + f"[metering]\n{metering}\n" + "\n".join(kept) + "\n")
    return str(path)


def thermal_error(duration_s, coherences):
    """Return the average gate error of Aer's own relaxation."""
    channel = SuperOp(np.eye(1))
    for one in coherences:
        relaxing = thermal_relaxation_error(one.t1_s, one.t2_s, duration_s)
        channel = SuperOp(relaxing).tensor(channel)
    return 1 - average_gate_fidelity(channel)
