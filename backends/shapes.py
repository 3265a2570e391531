"""How much work a payload holds, item by item, and which piece of it a task runs (pure)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

__all__ = ["ItemShape", "Piece"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemShape:
    """Size of one item of a payload, for the primitives one PUB.

    points: independent problems in it, for a PUB its parameter points. shots: executions of each
    point, 0 for an item that may not be cut. num_qubits: that it uses, 0 for those of the job;
    depth: its layers of gates. Both are arguments of the QPU's timing model.
    """

    points: int
    shots: int
    num_qubits: int = 0
    depth: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A rectangle of an item: points [first_point, end_point) × shots [first_shot, end_shot).

    pub: the item's place in its payload. An item without shots is never cut: end_shot is 0. block:
    with a seed, the shots from one multiple of it to the next share a random stream; 0 where all of
    the piece's shots do.
    """

    pub: int
    first_point: int
    end_point: int
    first_shot: int
    end_shot: int
    block: int = 0

    @property
    def points(self) -> int:
        """Parameter points covered."""
        return self.end_point - self.first_point

    @property
    def shots(self) -> int:
        """Shots per point covered."""
        return self.end_shot - self.first_shot

    @property
    def circuits(self) -> int:
        """Circuits that a task runs for it: one for each point and block of shots."""
        if not self.block:
            return self.points
        return self.points * (-(-self.end_shot // self.block) - self.first_shot // self.block)

    def block_end(self, blocks: int) -> int:
        """Return the shot before which so many blocks end; the part's last one without blocks."""
        if not self.block:
            return self.end_shot
        return min(self.end_shot, (self.first_shot // self.block + blocks) * self.block)

    def by_block(self) -> tuple[Self, ...]:
        """Return the part cut between all its blocks, in order."""
        pieces, rest = [], self
        while rest.block and rest.end_shot > (end := rest.block_end(1)):
            pieces.append(replace(rest, end_shot=end))
            rest = replace(rest, first_shot=end)
        return (*pieces, rest)
