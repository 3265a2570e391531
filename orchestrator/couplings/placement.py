"""What a run's coupling does where stages begin and end."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
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
    """A `StagePlacement` that does nothing: workers of one machine, or of a cluster that is there."""

    def classical(self, name: str, demand: Demand) -> AbstractContextManager[None]:
        """Return a context that does nothing."""
        del name, demand
        return nullcontext()

    def quantum(self, name: str, qpu: str) -> AbstractContextManager[None]:
        """Return a context that does nothing."""
        del name, qpu
        return nullcontext()

    def close(self) -> None:
        """Do nothing."""
