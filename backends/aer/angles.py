"""Gate angles of many parameter points at once, without evaluating expressions one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from qiskit.circuit import CircuitError, Parameter, ParameterExpression, QuantumCircuit

__all__ = ["Angles", "angles_of"]

# Where Aer keeps the global phase in a list of parameterised positions.
_GLOBAL_PHASE = (-1, -1)
_Floats = NDArray[np.float64]
_Position = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Angles:
    """The parameterised positions of an assembled circuit: angle = offset + slope · values.

    positions: (instruction, parameter) in Aer's count. slopes: shape (positions, parameters).
    curved: positions whose expression is not affine, evaluated point by point.
    """

    positions: tuple[_Position, ...]
    slopes: _Floats
    offsets: _Floats
    curved: tuple[tuple[_Position, ParameterExpression], ...]
    parameters: tuple[Parameter, ...]

    def __bool__(self) -> bool:
        """Whether any angle depends on parameters."""
        return bool(self.positions or self.curved)

    def bind(self, values: _Floats) -> list[tuple[_Position, list[float]]]:
        """Return every position with its angles. values: shape (points, parameters)."""
        angles = (values @ self.slopes.T + self.offsets).T.tolist()
        bound = list(zip(self.positions, angles, strict=True))
        for position, expression in self.curved:
            names = expression.parameters
            columns = {p: values[:, i] for i, p in enumerate(self.parameters) if p in names}
            bound.append(
                (
                    position,
                    [
                        float(expression.bind({p: float(c[i]) for p, c in columns.items()}))
                        for i in range(len(values))
                    ],
                )
            )
        return bound


def angles_of(
    circuit: QuantumCircuit, index_map: Sequence[int] | None, parameters: Iterable[Parameter]
) -> Angles:
    """Find the parameterised positions of a circuit.

    index_map: Aer's instruction number of each of the circuit's, None where they agree.
    parameters: the columns of the values, which may be more than the circuit has.
    """
    parameters = tuple(parameters)
    column = {parameter: i for i, parameter in enumerate(parameters)}
    positions, slopes, offsets, curved = [], [], [], []
    for position, expression in _expressions(circuit, index_map):
        affine = _affine(expression, column)
        if affine is None:
            curved.append((position, expression))
        else:
            positions.append(position)
            slopes.append(affine[0])
            offsets.append(affine[1])
    return Angles(
        positions=tuple(positions),
        slopes=np.array(slopes, dtype=float).reshape(len(positions), len(parameters)),
        offsets=np.array(offsets, dtype=float),
        curved=tuple(curved),
        parameters=parameters,
    )


def _expressions(
    circuit: QuantumCircuit, index_map: Sequence[int] | None
) -> list[tuple[_Position, ParameterExpression]]:
    found = []
    if _is_free(circuit.global_phase):
        found.append((_GLOBAL_PHASE, circuit.global_phase))
    for index, instruction in enumerate(circuit.data):
        for place, value in enumerate(instruction.operation.params):
            if _is_free(value):
                found.append(((index_map[index] if index_map else index, place), value))
    return found


def _is_free(value: object) -> bool:
    return isinstance(value, ParameterExpression) and bool(value.parameters)


def _affine(
    expression: ParameterExpression, column: dict[Parameter, int]
) -> tuple[_Floats, float] | None:
    """Return slope and offset of an affine expression, None for any other."""
    slope = np.zeros(len(column))
    if isinstance(expression, Parameter):
        slope[column[expression]] = 1.0
        return slope, 0.0
    for parameter in expression.parameters:
        gradient = expression.gradient(parameter)
        if isinstance(gradient, ParameterExpression):
            if gradient.parameters:
                return None
            gradient = gradient.numeric()
        if isinstance(gradient, complex):
            return None
        slope[column[parameter]] = float(gradient)
    offset = _value(expression, 0.0)
    if offset is None:
        return None
    # A gradient can hide a jump (sign, abs); two more points tell such a function apart.
    for point in (-1.234567, 2.345678):
        value = _value(expression, point)
        if value is None or abs(value - offset - point * slope.sum()) > 1e-9 * (1 + abs(value)):
            return None
    return slope, offset


def _value(expression: ParameterExpression, point: float) -> float | None:
    """Evaluate with every parameter at ``point``; None where it is complex or not defined."""
    try:
        value = expression.bind(dict.fromkeys(expression.parameters, point)).numeric()
    except (ArithmeticError, CircuitError):
        return None
    return None if isinstance(value, complex) else float(value)
