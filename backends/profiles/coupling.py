"""Which qubits are neighbours: all, a star, a lattice drawn as text, or listed pairs."""

from __future__ import annotations

from typing import Any

from backends.profiles.reading import TomlTable

__all__ = ["Pairs", "lattice_pairs", "read_coupling"]

Pairs = tuple[tuple[int, int], ...]

_QUBIT, _GAP = "o", "."


def lattice_pairs(rows: list[str]) -> tuple[int, Pairs]:
    """Return the number of qubits in a drawing and the pairs that are neighbours in it.

    ``o`` is a qubit, ``.`` a gap; qubits count row by row, neighbours stand beside or below.

    >>> lattice_pairs(["oo", ".o"])
    (3, ((0, 1), (1, 2)))
    """
    places = [(r, c) for r, row in enumerate(rows) for c, mark in enumerate(row) if mark == _QUBIT]
    index = {place: number for number, place in enumerate(places)}
    pairs = [
        (index[r, c], index[near])
        for r, c in places
        for near in ((r, c + 1), (r + 1, c))
        if near in index
    ]
    return len(places), tuple(pairs)


def read_coupling(device: TomlTable, num_qubits: int) -> tuple[Pairs | None, int | None]:
    """Return pairs (None for all to all or a star) and the index of a star's resonator."""
    value = device.raw("coupling")
    if value == "all":
        return None, None
    if value == "star":
        return None, num_qubits
    if isinstance(value, list) and value and all(_is_row(row) for row in value):
        drawn, pairs = lattice_pairs(value)
        if drawn != num_qubits:
            raise device.fail("coupling", f"draws {drawn} qubits, device.qubits is {num_qubits}")
        return pairs, None
    if isinstance(value, list) and value and all(_is_pair(pair, num_qubits) for pair in value):
        return tuple(dict.fromkeys((min(a, b), max(a, b)) for a, b in value)), None
    raise device.fail(
        "coupling",
        f'{value!r}; expected "all", "star", pairs of different qubits below {num_qubits} like '
        '[[0, 1], [1, 2]], or rows like ["oo", ".o"]',
    )


def _is_row(row: Any) -> bool:
    return isinstance(row, str) and set(row) <= {_QUBIT, _GAP}


def _is_pair(pair: Any, num_qubits: int) -> bool:
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and all(type(q) is int and 0 <= q < num_qubits for q in pair)
        and pair[0] != pair[1]
    )
