"""Thousands of small units inside one stage: straight to Dask, each finished one kept."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import cloudpickle

from orchestrator.compute.shipping import Shipment, dump_by_value, stage_context

__all__ = ["FanOutError", "Progress", "fan_out_on"]

T = TypeVar("T")
Progress = Callable[[int, int], None]

# Enough messages in flight to keep workers busy, few enough units in each to balance load.
_CHUNKS_PER_WORKER = 16
_LARGEST_CHUNK = 32


class FanOutError(RuntimeError):
    """Units failed after their retries; all others are finished and kept."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """Runs a chunk of units on a worker; a failing unit is tried again, then reported."""

    shipment: Shipment
    retries: int

    def __call__(self, chunk: Sequence[Any]) -> list[tuple[bool, Any]]:
        return [self._one(item) for item in chunk]

    def _one(self, item: Any) -> tuple[bool, Any]:
        for attempt in range(self.retries + 1):
            try:
                return True, self.shipment(item)
            except Exception as error:  # noqa: BLE001  # whatever a unit raises is reported
                if attempt == self.retries:
                    return False, error
        raise AssertionError("unreachable")


def fan_out_on(
    client: Any,
    function: Callable[[Any], T],
    items: Iterable[Any],
    *,
    retries: int = 0,
    progress: Progress | None = None,
) -> list[T]:
    """Apply a function to every item on a Dask client's workers; results keep the order.

    Inside a stage of a resumable run each finished unit is written to the run's folder, and
    a restarted run computes only the rest. Raises `FanOutError` once all units were tried.
    """
    units = list(items)
    kept = _Kept.open(function, units)
    results: dict[int, Any] = dict(kept.finished)
    todo = [index for index in range(len(units)) if index not in results]
    shipment = Shipment(dump_by_value(function))
    failures: dict[int, Exception] = {}
    with kept:
        for indices, outcomes in _stream(client, _Unit(shipment, retries), units, todo):
            for index, (fine, value) in zip(indices, outcomes, strict=True):
                (results if fine else failures)[index] = value
            kept.keep({i: results[i] for i in indices if i in results})
            if progress is not None:
                progress(len(results) + len(failures), len(units))
    if failures:
        first = min(failures)
        raise FanOutError(
            f"{len(failures)} of {len(units)} units failed after {retries + 1} tries each; the "
            f"first is number {first}: {type(failures[first]).__name__}: {failures[first]}"
        ) from failures[first]
    return [results[index] for index in range(len(units))]


def _stream(
    client: Any, unit: _Unit, units: Sequence[Any], todo: Sequence[int]
) -> Iterator[tuple[Sequence[int], Sequence[tuple[bool, Any]]]]:
    """Yield index chunks and their outcomes as workers finish them."""
    from distributed import as_completed

    workers = max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
    size = min(_LARGEST_CHUNK, max(1, len(todo) // (workers * _CHUNKS_PER_WORKER)))
    chunks = [todo[start : start + size] for start in range(0, len(todo), size)]
    inputs = [[units[index] for index in chunk] for chunk in chunks]
    futures = client.map(unit, inputs, pure=False)
    owner: dict[Future[Any], Sequence[int]] = dict(zip(futures, chunks, strict=True))
    for future, outcomes in as_completed(futures, loop=client.loop, with_results=True):
        yield owner[future], outcomes


class _Kept:
    """Finished units of one fan-out in an append-only file; a torn last record is ignored."""

    def __init__(self, path: Path | None, keys: Sequence[bytes]) -> None:
        self._path = path
        self._keys = keys
        self._file: IO[bytes] | None = None
        self.finished: dict[int, Any] = {}

    @classmethod
    def open(cls, function: Callable[..., Any], units: Sequence[Any]) -> _Kept:
        """Find what an earlier run of the same fan-out in the same stage finished."""
        context = stage_context()
        if context is None or context.keep_dir is None:
            return cls(None, [])
        code = getattr(function, "__code__", None)
        recipe = [getattr(function, "__qualname__", ""), getattr(code, "co_code", b"")]
        seed = hashlib.blake2b(repr(recipe).encode(), digest_size=8)
        keys = _digests(seed.digest(), units)
        kept = cls(context.keep_dir / f"{context.key}-{seed.hexdigest()}.units", keys)
        kept._read()
        return kept

    def keep(self, results: dict[int, Any]) -> None:
        """Append finished units."""
        if self._file is not None:
            record = [(self._keys[index], value) for index, value in results.items()]
            cloudpickle.dump(record, self._file)
            self._file.flush()

    def __enter__(self) -> _Kept:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def _read(self) -> None:
        if self._path is None or not self._path.exists():
            return
        found: dict[bytes, Any] = {}
        with self._path.open("r+b") as file:
            whole = 0
            try:
                while True:
                    found.update(pickle.load(file))  # noqa: S301  # our own file, of this user
                    whole = file.tell()
            except (EOFError, pickle.UnpicklingError):
                file.truncate(whole)
        self.finished = {i: found[key] for i, key in enumerate(self._keys) if key in found}


def _digests(seed: bytes, units: Sequence[Any]) -> list[bytes]:
    """Return a key per unit; equal units are told apart by how many came before."""
    seen: dict[bytes, int] = {}
    keys = []
    for unit in units:
        content = hashlib.blake2b(cloudpickle.dumps(unit), key=seed, digest_size=16).digest()
        seen[content] = seen.get(content, 0) + 1
        keys.append(content + seen[content].to_bytes(4, "big"))
    return keys
