"""Points for clustering: from a table of coordinates, or generated."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from flows._inputs import InputError, SourceLine, read_lines

__all__ = ["Points", "from_table", "generated", "nearest", "sampled"]

_LABELS = ("label", "labels", "cluster", "class", "target")
_SEPARATORS = (",", ";", "\t")
_LEAST_POINTS = 10
_MOST_POINTS = 1_000_000
_MOST_COLUMNS = 64
_NUMBERS = "finite numbers with a decimal point, separated by commas, semicolons or tabs"


@dataclass(frozen=True, eq=False, kw_only=True)
class Points:
    """Points in space. coordinates: (points, dimensions). truth: the file's own labels, if any."""

    title: str
    axes: tuple[str, ...]
    coordinates: NDArray[np.float64]
    truth: tuple[str, ...] | None = None

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.coordinates)

    def distinct(self) -> int:
        """Return how many different points there are."""
        return len(np.unique(self.scaled(), axis=0))

    def scaled(self) -> NDArray[np.float64]:
        """Return the coordinates around their mean, the largest being 1 or -1."""
        # First divided, so that the sum of large numbers is finite.
        largest = np.abs(self.coordinates).max() or 1.0
        centred = self.coordinates / largest
        centred -= centred.mean(axis=0)
        return centred / (np.abs(centred).max() or 1.0)


def generated(seed: int) -> Points:
    """Return 240 points in five groups of unequal width, two of them joined by a bridge."""
    rng = np.random.default_rng(seed)
    centres = np.array([[0.0, 0.0], [5.5, 0.5], [11.0, 5.5], [2.5, 8.0], [7.0, 10.0]])
    widths, sizes = (0.9, 0.7, 1.3, 0.6, 0.8), (60, 40, 60, 30, 40)
    groups = [
        rng.normal(centre, width, (size, 2))
        for centre, width, size in zip(centres, widths, sizes, strict=True)
    ]
    steps = np.linspace(0.3, 0.7, 10)[:, np.newaxis]
    bridge = centres[0] * (1 - steps) + centres[1] * steps + rng.normal(0, 0.1, (10, 2))
    truth = [name for name, size in zip("ABCDE", sizes, strict=True) for _ in range(size)]
    return Points(
        title="generated points",
        axes=("x", "y"),
        coordinates=np.vstack([*groups, bridge]),
        truth=(*truth, *("A" if step < 0.5 else "B" for step in steps[:, 0])),
    )


def sampled(points: Points, most: int, seed: int) -> Points:
    """Return the points, or a random choice of so many in the order of the file."""
    if len(points) <= most:
        return points
    chosen = np.sort(np.random.default_rng(seed).choice(len(points), most, replace=False))
    truth = None if points.truth is None else tuple(points.truth[i] for i in chosen)
    return Points(
        title=points.title, axes=points.axes, coordinates=points.coordinates[chosen], truth=truth
    )


def nearest(points: Points, sample: Points, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each point the label of the nearest point of a sample of the same file."""
    if len(points) == len(sample):
        return labels
    # Squares of distances must be finite.
    largest = np.abs(points.coordinates).max() or 1.0
    _, index = cKDTree(sample.coordinates / largest).query(points.coordinates / largest)
    return np.asarray(labels[index], dtype=np.int64)


def from_table(path: str) -> Points:
    """Read a point per line, one column per coordinate.

    Commas, semicolons or tabs separate the columns; ``#`` begins a comment. The first line may
    name the columns. A last column named label, cluster, class or target is not a coordinate: it
    holds what each point is known to belong to.

    Raises `InputError`, with the line that is wrong.
    """
    lines = [line for line in read_lines(path) if not _is_comment(line)]
    if not lines:
        raise InputError(f"{path}: only comments; expected {_NUMBERS}")
    separator = _separator(lines[0])
    names, rows = _heading([(line, _cells(line, separator)) for line in lines])
    if not _LEAST_POINTS <= len(rows) <= _MOST_POINTS:
        raise InputError(
            f"{path}: {len(rows)} points; expected {_LEAST_POINTS} to {_MOST_POINTS} lines of "
            f"{_NUMBERS}"
        )
    labelled = names is not None and names[-1].lower() in _LABELS
    width = len(rows[0][1])
    axes = tuple(names) if names is not None else tuple(f"x{n + 1}" for n in range(width))
    coordinates = axes[:-1] if labelled else axes
    if not 1 <= len(coordinates) <= _MOST_COLUMNS:
        raise rows[0][0].error(f"1 to {_MOST_COLUMNS} coordinates in each line")
    found = _coordinates(rows, axes, len(coordinates))
    return Points(
        title=Path(path).stem,
        axes=coordinates,
        coordinates=found,
        truth=tuple(cells[-1] for _, cells in rows) if labelled else None,
    )


def _is_comment(line: SourceLine) -> bool:
    text = line.text.strip()
    return not text or text.startswith("#")


def _separator(line: SourceLine) -> str:
    """Return the separator of the first line, outside quotes."""
    text = "".join(line.text.split('"')[::2])
    present = [mark for mark in _SEPARATORS if mark in text]
    if len(present) > 1:
        raise line.error(f"{_NUMBERS}, one kind of separator")
    return present[0] if present else ","


def _cells(line: SourceLine, separator: str) -> list[str]:
    try:
        (cells,) = csv.reader([line.text], delimiter=separator, strict=True)
    except (csv.Error, ValueError):
        raise line.error("quotes that are closed in the same line") from None
    return [cell.strip() for cell in cells]


_Rows = Sequence[tuple[SourceLine, list[str]]]


def _heading(rows: _Rows) -> tuple[list[str] | None, _Rows]:
    """Take the names of the columns off, if the first line has no number in it."""
    line, cells = rows[0]
    if any(_is_number(line, cell) for cell in cells):
        return None, rows
    if not all(cells) or len({cell.lower() for cell in cells}) < len(cells):
        raise line.error("a different name for each column, or numbers")
    return cells, rows[1:]


def _is_number(line: SourceLine, cell: str) -> bool:
    try:
        line.real(cell, _NUMBERS)
    except InputError:
        return False
    return True


def _coordinates(rows: _Rows, axes: Sequence[str], dimensions: int) -> NDArray[np.float64]:
    found = np.empty((len(rows), dimensions))
    for index, (line, cells) in enumerate(rows):
        if len(cells) != len(axes):
            raise line.error(f"{len(axes)} columns, as in the first line")
        found[index] = [line.real(cell, _NUMBERS) for cell in cells[:dimensions]]
        if not all(cells[dimensions:]):
            raise line.error(f"a value of {axes[-1]!r} in the last column")
    return found
