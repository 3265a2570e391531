"""What a compute is: where functions of classical stages run, and what one can ask of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from orchestrator.compute.fanout import Spread
    from orchestrator.compute.remote_call import RemoteFunction, RemoteResult
    from orchestrator.config.compute_tables import ComputeSettings

__all__ = ["Compute", "ComputeError", "ComputeKind", "ComputeRun", "Demand", "DemandNotMet"]

T = TypeVar("T")


class ComputeError(RuntimeError):
    """The workers cannot be started, or they died too often under one function."""


class DemandNotMet(ValueError):
    """A stage asks for more than its compute can give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a classical stage asks of its compute.

    cores: threads that the function, or each task of its programs, may use. memory: bytes on each
    node, None for what a worker has. gpus: on each node. nodes: the fewest machines; nodes_max: the most that it can use, as `nodes`
    if 0. walltime: longest that the function may take; None for what the compute grants.
    tasks_per_node: processes of the function's programs on each node.
    """

    cores: int = 1
    memory: int | None = None
    gpus: int = 0
    nodes: int = 1
    walltime: timedelta | None = None
    nodes_max: int = 0
    tasks_per_node: int = 1

    @property
    def cores_per_node(self) -> int:
        """Cores on each node."""
        return self.cores * self.tasks_per_node

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for an amount below the least."""
        if not self.nodes_max:
            object.__setattr__(self, "nodes_max", self.nodes)
        least = {"cores": 1, "memory": 1, "gpus": 0, "nodes": 1, "tasks_per_node": 1}
        for name, amount in ((name, getattr(self, name)) for name in least):
            if amount is not None and amount < least[name]:
                raise ValueError(f"{name}={amount}; a stage needs at least {least[name]}")
        if self.nodes_max < self.nodes:
            raise ValueError(
                f"nodes=({self.nodes}, {self.nodes_max}); the second number, of most nodes, is below "
                "the first"
            )
        if self.walltime is not None and self.walltime <= timedelta(0):
            raise ValueError(f"walltime={self.walltime}; a stage needs more than 0 seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeRun:
    """The run that a compute works for.

    id: the run's, by which a kind finds again what an earlier attempt left. folder: where the kind
    may store files of the run, not made yet; None for nowhere. on_connect: called with each Dask
    client, if the kind has any, to follow fan-outs. on_notice: called with a sentence for the user,
    such as what the workers wait for.
    """

    id: str = "run"
    folder: Path | None = None
    on_connect: Callable[[Any], None] | None = None
    on_notice: Callable[[str], None] | None = None


class Compute(Protocol):
    """Workers of a site, as one run sees them.

    Calls may come from any thread. Functions run in processes that can import what this one can,
    and never in this one.
    """

    def start(self) -> None:
        """Begin to start the workers, and return at once; `run` and `fan_out` do so, too."""
        ...

    def run(
        self, remote: RemoteFunction, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> RemoteResult:
        """Run a function with what its stage demands, and wait for its end.

        Args:
            remote: The function. A worker calls ``run_timed(remote, args, kwargs)``, or ``run_packed``
                with what ``packed_call`` made of them, which a scheduler does not unpickle;
                ``remote.context.demand`` is what the stage asks for.
            args: Arguments of the function.
            kwargs: Keyword arguments of the function.

        Returns:
            The function's value, where it ran and when.

        Raises:
            ComputeError: The workers do not start, or died again and again under the function.
            Exception: Whatever the function raised.
        """
        ...

    def fan_out(
        self, function: Callable[[Any], T], items: Iterable[Any], spread: Spread
    ) -> list[T]:
        """Apply a function to every item, and return the results in the order of the items.

        `orchestrator.compute.fanout.fan_out_on` does this on the workers of a Dask client.
        Raises ``FanOutError`` once all items were tried and one failed, and `ComputeError`.
        """
        ...

    def close(self) -> None:
        """End what was started here; closing twice does nothing."""
        ...


class ComputeKind(Protocol):
    """What a package registers in the entry point group ``hpcqc.computes``: a kind of compute."""

    def __call__(self, settings: ComputeSettings, run: ComputeRun | None = None) -> Compute:
        """Return a compute for a site's ``[compute.NAME]``; nothing starts.

        Args:
            settings: The table; ``options`` are the kind's own.
            run: The run that the compute works for; None for none in particular.

        Raises:
            ValueError: An option is unknown or invalid.
        """
        ...

    def lacks(self, settings: ComputeSettings, demand: Demand) -> Mapping[str, str]:
        """Return the fields of a demand that such a compute cannot meet, each with the reason."""
        ...
