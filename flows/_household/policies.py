"""Policies with parameters: a circuit and a small network, as tables, and where they start."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from qiskit.circuit import ParameterVector, QuantumCircuit
from qiskit.quantum_info import SparsePauliOp

from flows._household.battery import foreseen
from flows._household.homes import Homes

__all__ = [
    "CIRCUIT_PARAMETERS",
    "LAYERS",
    "NETWORK_PARAMETERS",
    "QUBITS",
    "Lesson",
    "StateGrid",
    "angles",
    "exact_table",
    "fitted_start",
    "lesson",
    "network_table",
    "observable",
    "policy_circuit",
]

_Values = NDArray[np.float64]

QUBITS, LAYERS = 4, 4
_CHARGES, _NETS = 3, 5
_HIDDEN = 9
# Of each layer: a scale of each input, a shift, and a rotation about another axis.
CIRCUIT_PARAMETERS = 3 * LAYERS * QUBITS
NETWORK_PARAMETERS = (QUBITS + 1) * _HIDDEN + _HIDDEN + 1
_PULL = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class StateGrid:
    """The states for which policies are tabled: hour × state of charge × net load (nets, in kWh)."""

    nets: _Values

    @classmethod
    def of(cls, homes: Homes) -> StateGrid:
        """Return a grid whose nodes are quantiles of the net loads."""
        shares = np.linspace(0.02, 0.98, _NETS)
        nets = np.quantile(homes.net, shares)
        return cls(nets=nets + 1e-6 * np.arange(_NETS))  # rising, also where many are equal

    @property
    def shape(self) -> tuple[int, int, int]:
        """Hours, states of charge, net loads."""
        return 24, _CHARGES, len(self.nets)

    def inputs(self) -> _Values:
        """Return four inputs between -1 and 1 for each state, (states, 4)."""
        hour, charge, net = np.meshgrid(
            np.arange(24), np.linspace(-1, 1, _CHARGES), np.linspace(-1, 1, _NETS), indexing="ij"
        )
        turn = 2 * np.pi * hour / 24
        columns = [np.sin(turn), np.cos(turn), charge, net]
        return np.stack([column.ravel() for column in columns], axis=1)


def policy_circuit() -> QuantumCircuit:
    """Return the circuit: in each layer RX and RY of every qubit, then CZ around a ring."""
    values = ParameterVector("a", 2 * LAYERS * QUBITS)
    circuit = QuantumCircuit(QUBITS)
    for layer in range(LAYERS):
        for qubit in range(QUBITS):
            at = 2 * (layer * QUBITS + qubit)
            circuit.rx(values[at], qubit)
            circuit.ry(values[at + 1], qubit)
        for qubit in range(QUBITS):
            circuit.cz(qubit, (qubit + 1) % QUBITS)
    return circuit


def observable() -> SparsePauliOp:
    """Return what the policy measures: Z of the first qubit, the share of the battery's power."""
    return SparsePauliOp.from_sparse_list([("Z", [0], 1.0)], QUBITS)


def angles(parameters: _Values, inputs: _Values) -> _Values:
    """Return the angles of `policy_circuit` for each row of inputs: (rows, 2 · layers · qubits).

    Each layer takes the inputs again (Pérez-Salinas et al., Quantum 4, 226 (2020)).
    """
    scales, shifts, turns = parameters.reshape(3, LAYERS, QUBITS)
    about_x = math.pi * scales[None] * inputs[:, None, :] + shifts[None]
    both = np.stack([about_x, np.broadcast_to(turns, about_x.shape)], axis=-1)
    result: _Values = both.reshape(len(inputs), -1)
    return result


def exact_table(parameters: _Values, inputs: _Values) -> _Values:
    """Return the policy's value for each row of inputs, by its state vector."""
    rows = angles(parameters, inputs).reshape(-1, LAYERS, QUBITS, 2)
    state = np.zeros((len(inputs), 2**QUBITS), dtype=complex)
    state[:, 0] = 1
    state = state.reshape(len(inputs), *[2] * QUBITS)
    signs = _ring_signs()
    for layer in range(LAYERS):
        for qubit in range(QUBITS):
            about_x, about_y = rows[:, layer, qubit].T / 2
            state = np.moveaxis(state, qubit + 1, 1)
            broad = (slice(None), *[None] * (QUBITS - 1))
            low, high = state[:, 0], state[:, 1]
            cos, sin = np.cos(about_x)[broad], np.sin(about_x)[broad]
            low, high = cos * low - 1j * sin * high, cos * high - 1j * sin * low
            cos, sin = np.cos(about_y)[broad], np.sin(about_y)[broad]
            state = np.stack([cos * low - sin * high, sin * low + cos * high], axis=1)
            state = np.moveaxis(state, 1, qubit + 1)
        state = state * signs
    chances = np.abs(state.reshape(len(inputs), 2, -1)) ** 2
    found: _Values = chances[:, 0].sum(axis=1) - chances[:, 1].sum(axis=1)
    return found


def _ring_signs() -> _Values:
    bits = np.indices([2] * QUBITS)
    pairs = sum(bits[q] * bits[(q + 1) % QUBITS] for q in range(QUBITS))
    return (-1.0) ** np.asarray(pairs)


def network_table(parameters: _Values, inputs: _Values) -> _Values:
    """Return the value of a network with one hidden layer for each row of inputs."""
    first, rest = np.split(parameters, [QUBITS * _HIDDEN])
    shifts, second, last = np.split(rest, [_HIDDEN, 2 * _HIDDEN])
    hidden = np.tanh(inputs @ first.reshape(QUBITS, _HIDDEN) + shifts)
    found: _Values = np.tanh(hidden @ second + last[0])
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What plans with foresight do on average in each state, and how often it occurs: (states,)."""

    wanted: _Values
    weights: _Values


def lesson(homes: Homes, grid: StateGrid) -> Lesson:
    """Return what to imitate: the mean of the cheapest plans of homes in the nearest states."""
    battery, way = homes.battery, math.sqrt(homes.battery.round_trip)
    total, seen = np.zeros(grid.shape), np.zeros(grid.shape)
    for net in homes.net:
        plan = foreseen(net, homes.prices, battery)
        stored = np.cumsum(np.maximum(plan, 0) * way - np.maximum(-plan, 0) / way)
        before = np.clip(np.concatenate([[0.0], stored[:-1]]) / battery.capacity, 0, 1)
        charge = np.rint(before * (_CHARGES - 1)).astype(int)
        place = np.rint(np.interp(net, grid.nets, np.arange(len(grid.nets)))).astype(int)
        # What the home takes is the most that can be given: all of it counts as full power.
        share = plan / battery.power
        share = np.where(plan < 0, -np.minimum(1, -plan / np.maximum(net, 1e-3)), share)
        np.add.at(total, (homes.hours, charge, place), share)
        np.add.at(seen, (homes.hours, charge, place), 1.0)
    wanted = np.where(seen > 0, total / np.maximum(seen, 1), 0.0)
    return Lesson(wanted=wanted.ravel(), weights=(seen / seen.sum()).ravel())


def fitted_start(
    table: Callable[[_Values, _Values], _Values],
    parameters: int,
    grid: StateGrid,
    taught: Lesson,
    seed: int,
    rounds: int = 25,
) -> _Values:
    """Return parameters whose table imitates a lesson: least squares from a random start."""
    from scipy.optimize import minimize

    inputs = grid.inputs()
    start = np.random.default_rng(seed).normal(0, 0.3, parameters)

    def miss(given: _Values) -> float:
        off = taught.weights @ (table(given, inputs) - taught.wanted) ** 2
        return float(off + _PULL * (given**2).mean())

    found: _Values = minimize(miss, start, method="L-BFGS-B", options={"maxiter": rounds}).x
    return found
