"""Labelled signals: the sonar and radar sets that ship, or files in their layout."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flows._inputs import InputError, SourceLine, read_lines

__all__ = ["LEAST_OF_A_CLASS", "Signals", "Task", "signals_of"]

Task = Literal["recognition", "detection"]

# Five outer parts, each divided into three: fewer would leave a part without one of the classes.
LEAST_OF_A_CLASS = 10
_MOST_SIGNALS = 2000
_MOST_FEATURES = 4096
_SHIPPED = Path(__file__).with_name("data")
_NUMBERS = "numbers and a label, separated by commas"
_COMMENTS = ("#", "%", "@")  # of CSV, ARFF and KEEL
_LABEL_NAMES = ("class", "label", "labels", "target", "y")
_FEW_LABELS = 20  # more are numbers rather than labels


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """A published set. files: its names at UCI, KEEL and here."""

    title: str
    files: tuple[str, ...]
    target: str
    task: Task


_KNOWN = {
    "sonar": _Known(
        title="Sonar, mines among rocks",
        files=("sonar.dat", "sonar.all-data", "sonar.csv"),
        target="M",
        task="recognition",
    ),
    "ionosphere": _Known(
        title="Ionosphere, bad radar returns",
        files=("ionosphere.dat", "ionosphere.data", "ionosphere.csv"),
        target="b",
        task="detection",
    ),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Signals:
    """Signals of two classes.

    features: (signals, features). is_target: which of them are to be recognised or detected;
    ``target`` is their label and ``other`` that of the rest.
    """

    title: str
    task: Task
    features: NDArray[np.float64]
    is_target: NDArray[np.bool_]
    target: str
    other: str

    def __len__(self) -> int:
        """Return the number of signals."""
        return len(self.features)


def signals_of(data: str | None, task: Task | None, target: str | None) -> list[Signals]:
    """Return the sets that a user names.

    Args:
        data: sonar, ionosphere, a file, or a folder with files as their publishers name them; None
            for both sets that ship.
        task: None for that of each published set, and recognition of others.
        target: label of the signals to find; None for that of each published set, and the rarer
            label of others.

    Raises:
        InputError: there is no such file, or it cannot be used; with the line where there is one.
    """
    if data is None or data in _KNOWN:
        names = list(_KNOWN) if data is None else [data]
        files: list[tuple[Path, _Known | None]] = [
            (_SHIPPED / f"{name}.csv", _KNOWN[name]) for name in names
        ]
    elif Path(data).expanduser().is_dir():
        files = _in_folder(Path(data).expanduser())
    else:
        name = Path(data).name.lower()
        known = next((one for one in _KNOWN.values() if name in one.files), None)
        files = [(Path(data), known)]
    return [_read(path, known, task, target) for path, known in files]


def _in_folder(folder: Path) -> list[tuple[Path, _Known | None]]:
    found: list[tuple[Path, _Known | None]] = []
    for known in _KNOWN.values():
        present = [folder / name for name in known.files if (folder / name).is_file()]
        found += [(path, known) for path in present[:1]]
    if not found:
        names = ", ".join(name for known in _KNOWN.values() for name in known.files)
        raise InputError(
            f"{folder}: no set in it; expected one of the files {names}, or give the path of a file "
            f"of {_NUMBERS}"
        )
    return found


def _read(path: Path, known: _Known | None, task: Task | None, target: str | None) -> Signals:
    rows = _rows(path)
    for line, cells in rows:
        if cells[-1].lower() in ("", "?", "nan"):
            raise line.error("a label in the last column")
    counts = Counter(cells[-1] for _, cells in rows)
    _check_labels(path, rows, counts)
    if known is not None and target is None and known.target in counts:
        target = known.target
    found = min(sorted(counts), key=counts.__getitem__) if target is None else target
    if found not in counts:
        raise InputError(
            f"target {found}: no signal of {path} has this label; expected one of "
            f"{', '.join(sorted(counts))}"
        )
    features = np.array([_features(line, cells) for line, cells in rows])
    if not np.ptp(features, axis=0).any():
        raise InputError(f"{path}: all signals are equal; expected different ones")
    for column in np.flatnonzero((np.diff(features, axis=0) == 1).all(axis=0))[:1]:
        raise InputError(
            f"{path}: column {column + 1} numbers the signals from {features[0, column]:g} on, and so "
            "tells their labels where the file is sorted by these; expected measured numbers: leave the "
            "column out"
        )
    return Signals(
        title=path.stem if known is None else known.title,
        task=task or ("recognition" if known is None else known.task),
        features=features,
        is_target=np.array([cells[-1] == found for _, cells in rows]),
        target=found,
        other=next(label for label in counts if label != found),
    )


def _check_labels(
    path: Path, rows: Sequence[tuple[SourceLine, list[str]]], counts: Counter[str]
) -> None:
    """Raise `InputError` unless the last column has two labels, each of them often enough."""
    if len(counts) != 2:
        shown = ", ".join(sorted(counts)[:6])
        first = {cells[0] for _, cells in rows}
        remedy = "; expected two different ones"
        if len(first) == 2:
            remedy += (
                f": move the first column there, whose labels are {' and '.join(sorted(first))}"
            )
        elif len(counts) == 1:
            remedy += ": add signals with another label, or move the column of labels there"
        elif len(counts) <= _FEW_LABELS:
            remedy += ": join the others to one label, or leave them out"
        found = f"labels in the last column are {shown}{' …' if len(counts) > 6 else ''}"
        if len(counts) == 1:
            found = f"label in the last column is {shown} for all {len(rows)} signals"
        raise InputError(f"{path}: the {found}{remedy}")
    if min(counts.values()) < LEAST_OF_A_CLASS:
        rare = min(counts, key=counts.__getitem__)
        raise InputError(
            f"{path}: {counts[rare]} signals with the label {rare}; expected at least "
            f"{LEAST_OF_A_CLASS} with each label"
        )


def _rows(path: Path) -> list[tuple[SourceLine, list[str]]]:
    """Return the lines of signals with their cells."""
    lines = [line for line in read_lines(path) if _is_signal(line)]
    rows = [(line, _cells(line)) for line in lines]
    if rows and not any(_is_number(cell) for _, cells in rows for cell in cells[:-1]):
        raise rows[0][0].error(
            f"{_NUMBERS}; no cell before the last column of any line is a number"
        )
    if rows and len(rows[0][1]) > 1 and not any(map(_is_number, rows[0][1][:-1])):
        _check_names(*rows[0])
        rows = rows[1:]  # it names the columns
    if not 2 * LEAST_OF_A_CLASS <= len(rows) <= _MOST_SIGNALS:
        raise InputError(
            f"{path}: {len(rows)} signals; expected {2 * LEAST_OF_A_CLASS} to {_MOST_SIGNALS} lines "
            f"of {_NUMBERS}"
        )
    width = len(rows[0][1])
    if not 2 <= width <= _MOST_FEATURES + 1:
        raise rows[0][0].error(f"{_NUMBERS}, at most {_MOST_FEATURES} numbers")
    for line, cells in rows:
        if len(cells) != width:
            raise line.error(f"{width} columns, as in line {rows[0][0].number}, not {len(cells)}")
    return rows


def _cells(line: SourceLine) -> list[str]:
    text = line.text.strip()
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if separator in text:
            raise line.error(f"{_NUMBERS}, and a point in a number; these are separated by {name}")
    return [cell.strip() for cell in next(csv.reader([text], skipinitialspace=True))]


def _check_names(line: SourceLine, names: Sequence[str]) -> None:
    """Raise `InputError` if names of columns say that the label is not the last one."""
    is_named = names[-1].lower() in _LABEL_NAMES  # then a y before it is a feature
    for column, name in enumerate(names[:-1], 1):
        if not is_named and name.lower() in _LABEL_NAMES:
            raise line.error(f"the column {name} as the last, in place of {names[-1]}")
        if not name:
            raise line.error(
                f"a name for column {column}; leave it out if it only numbers the signals"
            )


def _is_signal(line: SourceLine) -> bool:
    text = line.text.strip()
    return bool(text) and not text.startswith(_COMMENTS)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _features(line: SourceLine, cells: list[str]) -> list[float]:
    return [
        line.real(cell, f"a finite number in column {column}; fill or leave out missing values")
        for column, cell in enumerate(cells[:-1], 1)
    ]
