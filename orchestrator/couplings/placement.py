"""What a run's coupling does where stages begin and end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from orchestrator.compute.api import Demand

__all__ = ["StagePlacement", "Uncoupled"]


class StagePlacement(Protocol):
    """The borders of a run's stages; calls may come from any thread, and stages overlap."""

    def classical(self, name: str, demand: Demand) -> AbstractContextManager[None]:
        """Return a context for a classical stage, from when it is ready to its end.

        Args:
            name: The stage's compute.
            demand: What the stage asks of it.
        """
        ...

    def quantum(self, name: str, qpu: str) -> AbstractContextManager[None]:
        """Return a context for a quantum stage, from when it is ready to its end.

        Args:
            name: The key of the stage.
            qpu: The QPU that it uses.
        """
        ...

    def close(self) -> None:
        """Give up what the run holds; closing twice does nothing."""
        ...


class Uncoupled:
    """A `StagePlacement` for workers of one machine, or of a cluster that is there.

    Args:
        hold: Holds a QPU, by its name, while a quantum stage runs; None where nothing does.
    """

    def __init__(self, hold: Callable[[str], AbstractContextManager[object]] | None = None) -> None:
        self._hold = hold

    def classical(self, name: str, demand: Demand) -> AbstractContextManager[None]:
        """Return a context that does nothing."""
        del name, demand
        return nullcontext()

    def quantum(self, name: str, qpu: str) -> AbstractContextManager[None]:
        """Return a context that holds the QPU where Slurm grants it."""
        del name
        return nullcontext() if self._hold is None else _entered(self._hold(qpu))

    def close(self) -> None:
        """Do nothing."""


@contextmanager
def _entered(held: AbstractContextManager[object]) -> Iterator[None]:
    with held:
        yield
