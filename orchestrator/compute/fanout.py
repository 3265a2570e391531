"""Fan-out of one function over thousands of items on Dask workers; finished units are stored."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeVar

import cloudpickle

from orchestrator.compute.api import ComputeError, Demand
from orchestrator.compute.digests import value_digest
from orchestrator.compute.remote_call import (
    RemoteFunction,
    StageContext,
    dump_by_value,
    isolated_modules,
    return_freed_memory,
)
from orchestrator.identity import Occurrence, UnitKey, units_file_name
from orchestrator.wording import counted

__all__ = ["ClusterLost", "FanOutError", "Progress", "Spread", "fan_out_on", "worker_died"]

T = TypeVar("T")
Progress = Callable[[int, int], None]

# Enough messages in flight to keep workers busy, few enough units in each to balance load.
_CHUNKS_PER_WORKER = 16
_LARGEST_CHUNK = 32
# Each death of a worker costs seconds; where so many units kill theirs, the others will as well.
_MOST_KILLERS = 5
_MOST_LOSSES = 10


class ClusterLost(ComputeError):
    """The scheduler and its workers ended while units were running."""


class FanOutError(RuntimeError):
    """Units failed after their retries, or killed their worker; all others are finished and stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How units are spread over workers."""

    context: StageContext  # the stage they belong to
    turn_of: Callable[[str], int]  # how many earlier units of the stage have this content
    retries: int = 0
    progress: Progress | None = None  # takes the numbers of finished and of all units
    again: Callable[[], Any] | None = None  # waits for a restarted cluster's client
    watch: Callable[[Sequence[Any]], None] | None = None  # takes the futures that are waited for


@dataclass(frozen=True, slots=True)
class _Unit:
    """A chunk of units, run on a worker; a failing unit is retried, then reported."""

    data: bytes
    context: StageContext
    retries: int

    def __call__(self, packed: bytes) -> list[tuple[bool, Any]]:
        try:
            with isolated_modules(self.context.paths):
                return [self._one(name, item) for name, item in cloudpickle.loads(packed)]
        finally:
            return_freed_memory()

    def _one(self, name: str, item: Any) -> tuple[bool, Any]:
        # With one key, equal quantum calls of two units would be one job.
        context = replace(self.context, key=str(UnitKey(self.context.key, name)))
        for attempt in range(self.retries + 1):
            try:
                return True, RemoteFunction(self.data, context)(item)
            except Exception as error:  # noqa: BLE001  # whatever a unit raises is reported
                if attempt == self.retries:
                    return False, error
        raise AssertionError("unreachable")


def fan_out_on(
    client: Any, function: Callable[[Any], T], items: Iterable[Any], spread: Spread
) -> list[T]:
    """Return the function's value for each item, computed by a Dask client's workers, in order.

    A resumed run computes only unfinished units. Raises `FanOutError` once all units were tried.
    """
    units = list(items)
    digest = value_digest(function)
    contents = [value_digest((digest, unit)) for unit in units]
    names = [str(Occurrence(content, spread.turn_of(content))) for content in contents]
    folder, file = spread.context.keep_dir, units_file_name(spread.context.key, digest)
    store = _UnitStore(None if folder is None else folder / file, names)
    results = store.read()
    todo = [index for index in range(len(units)) if index not in results]
    context = replace(spread.context, demand=Demand(), qpu_identity="")
    unit = _Unit(dump_by_value(function), context, spread.retries)
    named = list(zip(names, units, strict=True))
    failures: dict[int, Exception] = {}
    with store:
        for indices, outcomes in _enduring(client, unit, named, todo, spread):
            for index, (fine, value) in zip(indices, outcomes, strict=True):
                (results if fine else failures)[index] = value
            store.append({i: results[i] for i in indices if i in results})
            if spread.progress is not None:
                spread.progress(len(results) + len(failures), len(units))
    if failures:
        first = min(failures)
        raise FanOutError(
            f"{len(failures)} of {counted(len(units), 'unit')} failed after "
            f"{counted(spread.retries + 1, 'try', 'tries')} each; "
            f"the first is number {first}: {type(failures[first]).__name__}: {failures[first]}"
        ) from failures[first]
    return [results[index] for index in range(len(units))]


def worker_died(error: BaseException) -> ComputeError:
    """Return the error for a function whose workers died until Dask gave it up."""
    return ComputeError(
        "the worker process died every time this function ran; often it needs more "
        f"memory than a worker has. Dask says: {error}"
    )


def _enduring(
    client: Any,
    unit: _Unit,
    units: Sequence[tuple[str, Any]],
    todo: Sequence[int],
    spread: Spread,
) -> Iterator[tuple[Sequence[int], Sequence[tuple[bool, Any]]]]:
    """Yield as `_stream` does; units of a lost cluster run on the restarted one."""
    owed = dict.fromkeys(todo)
    for loss in range(_MOST_LOSSES + 1):
        try:
            for indices, outcomes in _stream(client, unit, units, list(owed), spread):
                for index in indices:
                    del owed[index]
                yield indices, outcomes
        except ClusterLost:
            if spread.again is None or loss == _MOST_LOSSES:
                raise
            client = spread.again()
        else:
            return


def _stream(
    client: Any,
    unit: _Unit,
    units: Sequence[tuple[str, Any]],
    todo: Sequence[int],
    spread: Spread,
) -> Iterator[tuple[Sequence[int], Sequence[tuple[bool, Any]]]]:
    """Yield index chunks and their outcomes as workers finish them."""
    from distributed import as_completed

    where = _resources_of(unit)
    known = client.scheduler_info(n_workers=-1)["workers"].values()
    workers = max(1, sum(where.keys() <= worker["resources"].keys() for worker in known))
    size = min(_LARGEST_CHUNK, max(1, len(todo) // (workers * _CHUNKS_PER_WORKER)))
    chunks = [todo[start : start + size] for start in range(0, len(todo), size)]
    # Unpacked by the unit, where the user's own classes can be found.
    inputs = [cloudpickle.dumps([units[index] for index in chunk]) for chunk in chunks]
    owner: dict[Future[Any], Sequence[int]] = dict(
        zip(client.map(unit, inputs, pure=False, resources=where), chunks, strict=True)
    )
    if spread.watch is not None:
        spread.watch(list(owner))
    ended = as_completed(list(owner), loop=client.loop, with_results=True, raise_errors=False)
    suspects: list[int] = []
    for future, outcomes in ended:
        # Released, so that Dask computes no outcome again that has arrived.
        indices = owner.pop(future)
        # An outcome that has arrived counts, even if its worker has died since.
        if future.status == "finished" or isinstance(outcomes, list):
            yield indices, outcomes
        elif _is_of_a_killed_worker(future, outcomes):
            suspects += indices
    yield from _one_by_one(client, unit, units, sorted(suspects), spread)


def _one_by_one(
    client: Any,
    unit: _Unit,
    units: Sequence[tuple[str, Any]],
    suspects: Sequence[int],
    spread: Spread,
) -> Iterator[tuple[Sequence[int], Sequence[tuple[bool, Any]]]]:
    """Run one by one the units whose worker died, to find those that killed it."""
    killers = 0
    reason: Exception = ComputeError("its worker died, as those of other units did before it")
    for index in suspects:
        outcome: tuple[bool, Any] = (False, reason)
        if killers < _MOST_KILLERS:
            packed = cloudpickle.dumps([units[index]])
            future = client.submit(unit, packed, pure=False, resources=_resources_of(unit))
            if spread.watch is not None:
                spread.watch([future])
            ended = future.exception()
            if ended is None:
                (outcome,) = future.result()
            elif _is_of_a_killed_worker(future, (type(ended), ended, None)):
                killers += 1
                outcome = (False, worker_died(ended))
        yield [index], [outcome]


def _resources_of(unit: _Unit) -> dict[str, float]:
    """Return the Dask resources that workers for a unit must have."""
    return {unit.context.pool: 1} if unit.context.pool else {}


def _is_of_a_killed_worker(future: Any, outcome: Any) -> bool:
    """Whether a future ended because its worker was killed; raises any other reason."""
    from distributed import KilledWorker

    if future.status == "cancelled":
        raise ClusterLost("the workers were shut down while units ran")
    error: Exception = outcome[1]
    if isinstance(error, KilledWorker):
        return True
    raise error


class _UnitStore:
    """Finished units in an append-only file, which equal fan-outs share; ignores a torn record."""

    _lock = threading.Lock()

    def __init__(self, path: Path | None, names: Sequence[str]) -> None:
        self._path = path
        self._names = names
        self._file: IO[bytes] | None = None

    def read(self) -> dict[int, Any]:
        """Return results of earlier executions of the same stage, by the index of the unit."""
        if self._path is None or not self._path.exists():
            return {}
        results: dict[str, Any] = {}
        with self._lock, self._path.open("r+b") as file:
            whole = 0
            try:
                while True:
                    results.update(pickle.load(file))  # noqa: S301  # our own file, of this user
                    whole = file.tell()
            except Exception:  # noqa: BLE001  # half a pickle raises anything; at the end, EOFError
                file.truncate(whole)
        return {i: results[name] for i, name in enumerate(self._names) if name in results}

    def append(self, results: dict[int, Any]) -> None:
        if self._file is not None:
            record = cloudpickle.dumps([(self._names[i], value) for i, value in results.items()])
            with self._lock:
                self._file.write(record)
                self._file.flush()

    def __enter__(self) -> _UnitStore:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
