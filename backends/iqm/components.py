"""Names of qubits and resonators on IQM's devices, and their numbers here (pure)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Components"]

_QUBIT = re.compile(r"QB([1-9]\d*)")
_RESONATOR = re.compile(r"(?:CR|COMPR|COMP_R)([1-9]\d*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """Qubit ``QB1`` is number 0; a star's resonator comes one past the last qubit.

    >>> Components(num_qubits=24, resonator="CR1").name(24)
    'CR1'
    >>> Components(num_qubits=24, resonator="CR1").number("QB3")
    2
    """

    num_qubits: int
    resonator: str | None = None

    @classmethod
    def of(cls, num_qubits: int, resonators: Sequence[str]) -> Components:
        """Return the names of a device. Raises ``ValueError`` for more than one resonator."""
        if len(resonators) > 1:
            raise ValueError(f"resonators {', '.join(resonators)}; expected one at most")
        return cls(num_qubits=num_qubits, resonator=resonators[0] if resonators else None)

    def name(self, number: int) -> str:
        """Return the name of a qubit, or of the resonator."""
        if number == self.num_qubits and self.resonator is not None:
            return self.resonator
        return f"QB{number + 1}"

    def number(self, name: str) -> int:
        """Return the number of a component. Raises ``ValueError`` for an unknown one."""
        if name == self.resonator:
            return self.num_qubits
        found = _QUBIT.fullmatch(name)
        if found is None or int(found[1]) > self.num_qubits:
            raise ValueError(
                f"unknown component {name!r}; expected QB1 to QB{self.num_qubits}"
                f"{'' if self.resonator is None else f' or {self.resonator}'}"
            )
        return int(found[1]) - 1
