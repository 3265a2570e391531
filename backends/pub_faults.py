"""What is wrong with a PUB that Qiskit does not take, in words about its values."""

from __future__ import annotations

import numbers
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.primitives.containers import BindingsArray

__all__ = ["check_names", "fault_of"]

# What Qiskit's observables take for one qubit: Paulis, and projectors on their eigenstates.
_LABEL = re.compile(r"[IXYZ01+\-rl]+")
_SHOWN = 60


def fault_of(pub: Any, error: Exception, *, estimator: bool) -> str:
    """Return what is wrong with a PUB: the value, what is expected; else the error's own words."""
    parts = list(pub) if isinstance(pub, (tuple, list)) else [pub]
    if not parts or not isinstance(parts[0], QuantumCircuit):
        found = _short(parts[0]) if parts else "nothing"
        return f"got {found} where a circuit is expected"
    if estimator:
        width = parts[0].num_qubits
        for label in _labels(parts[1]) if len(parts) > 1 else ():
            if not _LABEL.fullmatch(label) or len(label) != width:
                return (
                    f"invalid observable {_short(label)}; use I, X, Y and Z, one letter for each "
                    f"qubit; the circuit has {width} qubit{'s' * (width != 1)}"
                )
    at = 2 if estimator else 1
    for value in _numbers(parts[at]) if len(parts) > at else ():
        if not isinstance(value, (numbers.Real, np.bool_)):
            return f"invalid parameter value {_short(value)}; give real numbers, such as [0.5]"
    given, wanted = _width(parts[at]) if len(parts) > at else None, parts[0].num_parameters
    if given is not None and given != wanted:
        return f"parameter values have {given} in the last dimension; the circuit takes {wanted}"
    if estimator and len(parts) > at + 1 and not isinstance(parts[at + 1], numbers.Real):
        return f"invalid precision {_short(parts[at + 1])}; give a number ≥ 0 (0 for exact values)"
    return str(error)


def check_names(circuit: QuantumCircuit, values: BindingsArray) -> None:
    """Raise ValueError if values are given by the name of a parameter that the circuit lacks."""
    known = [parameter.name for parameter in circuit.parameters]
    for names in values.data:
        for name in names:
            if name not in known:
                listed = ", ".join(known[:8]) + (", …" if len(known) > 8 else "")
                raise ValueError(
                    f"the circuit has no parameter {_short(name)}; it has: {listed or 'none'}"
                )


def _labels(observables: Any) -> Iterator[str]:
    if isinstance(observables, str):
        yield observables
    elif isinstance(observables, Mapping):
        for label in observables:
            yield from _labels(label)
    elif isinstance(observables, (list, tuple)):
        for one in observables:
            yield from _labels(one)


def _numbers(values: Any) -> Iterator[Any]:
    if isinstance(values, Mapping):
        for one in values.values():
            yield from _numbers(one)
    elif isinstance(values, (list, tuple)):
        for one in values:
            yield from _numbers(one)
    elif isinstance(values, np.ndarray):
        yield from values.ravel().tolist()
    elif not isinstance(values, BindingsArray):
        yield values


def _width(values: Any) -> int | None:
    """Return the last dimension of an array, None for what is not one."""
    if not isinstance(values, (list, tuple, np.ndarray)):
        return None
    try:
        shape = np.shape(values)
    except ValueError:  # lists of different lengths
        return None
    return shape[-1] if shape else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
