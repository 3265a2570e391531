"""Patients of hospitals in the layout of UCI's Heart Disease files, and features made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flows._inputs import InputError, SourceLine, read_lines

__all__ = [
    "FEATURES",
    "QUBIT_FEATURES",
    "PatientSplit",
    "Patients",
    "as_text",
    "columns_of",
    "generated",
    "joined",
    "parsed",
    "read",
]

_Values = NDArray[np.float64]

_COLUMNS = 14
_LEAST_PATIENTS = 20
_WORD = "14 columns separated by commas, as in UCI's processed Heart Disease files"
# Round figures of adults in cardiology, the same at every site: no site's own mean crosses.
_SCALES = {
    "age": (0, 54.0, 9.0),
    "pressure": (3, 131.0, 18.0),
    "cholesterol": (4, 246.0, 50.0),
    "lack of heart rate": (7, 145.0, -25.0),
    "ST depression": (9, 1.0, 1.1),
    "vessels": (11, 0.7, 0.9),
}
_FLAGS = {"sex": 1, "sugar": 5, "exercise angina": 8}
_KINDS = {
    "pain": (2, (1, 2, 3, 4)),
    "ECG": (6, (0, 1, 2)),
    "slope": (10, (1, 2, 3)),
    "thallium": (12, (3, 6, 7)),
}
# A table in another order, or coded otherwise, would be learned from all the same.
_SPANS = {
    "age": (0, 0, 120),
    "pressure in mmHg": (3, 0, 300),
    "cholesterol in mg/dl": (4, 0, 1000),
    "heart rate": (7, 0, 250),
    "ST depression": (9, -10, 20),
}
_CODES = {
    **{name: (at, (0, 1)) for name, at in _FLAGS.items()},
    **_KINDS,
    "vessels": (11, (0, 1, 2, 3)),
    "diagnosis": (13, (0, 1, 2, 3, 4)),
}
FEATURES = (
    *_SCALES,
    *_FLAGS,
    *(f"{name} {value}" for name, (_, values) in _KINDS.items() for value in values),
)
# What a few qubits are given, the most telling first, of those that all hospitals recorded.
QUBIT_FEATURES = ("pain 4", "exercise angina", "ST depression", "lack of heart rate", "sex", "age")


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Patients:
    """Patients of a hospital. features: (patients, features), 0 where nothing is known; ill: 0 or 1."""

    hospital: str
    features: _Values
    ill: _Values

    def __len__(self) -> int:
        """How many there are."""
        return len(self.ill)

    def split(self, seed: int) -> PatientSplit:
        """Return three quarters for training and the rest for tests, by chance and by illness."""
        rng = np.random.default_rng([seed, *self.hospital.encode()])
        training = np.zeros(len(self), dtype=bool)
        for label in (0.0, 1.0):
            found = rng.permutation(np.flatnonzero(self.ill == label))
            training[found[: math.ceil(0.75 * len(found))]] = True
        return PatientSplit(training=self._of(training), test=self._of(~training))

    def _of(self, chosen: NDArray[np.bool_]) -> Patients:
        return Patients(
            hospital=self.hospital, features=self.features[chosen], ill=self.ill[chosen]
        )


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class PatientSplit:
    """Patients to learn from, and others to test on."""

    training: Patients
    test: Patients


def read(path: Path, hospital: str | None = None) -> Patients:
    """Read a hospital's file. Raises `InputError` with file and line."""
    return _read(read_lines(path), path, hospital or path.stem)


def parsed(text: str, hospital: str, path: Path | None = None) -> Patients:
    """Return the patients of a file's text; see `read`."""
    path = path or Path(f"{hospital}.csv")
    lines = [SourceLine(path, number, one) for number, one in enumerate(text.splitlines(), 1)]
    return _read(lines, path, hospital)


def joined(hospitals: Sequence[Patients]) -> Patients:
    """Return the patients of several hospitals as one."""
    return Patients(
        hospital="all",
        features=np.vstack([one.features for one in hospitals]),
        ill=np.concatenate([one.ill for one in hospitals]),
    )


def _read(lines: Sequence[SourceLine], path: Path, hospital: str) -> Patients:
    rows: list[list[float]] = []
    for line in lines:
        if not line.text.strip():
            continue
        words = [word.strip() for word in line.text.split(",")]
        if len(words) != _COLUMNS:
            raise line.error(f"{_WORD}; this has {len(words)}")
        if not rows and not any(map(_is_number, words)):
            raise line.error(f"patients from the first line on, without names of columns; {_WORD}")
        missing = [word.lower() in ("?", "nan", "") for word in words]
        row = [
            math.nan if absent else line.real(word, f"a number, or NaN or ? for none; {_WORD}")
            for word, absent in zip(words, missing, strict=True)
        ]
        if math.isnan(row[-1]):
            raise line.error("a diagnosis, 0 to 4, in the last column")
        _check_values(line, row)
        rows.append(row)
    table = np.array(rows, dtype=float)
    if len(table) < _LEAST_PATIENTS:
        raise InputError(f"{path}: {len(table)} patients; expected at least {_LEAST_PATIENTS}")
    found = _patients(hospital, table)
    for label, words_of in ((0.0, "healthy"), (1.0, "ill")):
        if np.count_nonzero(found.ill == label) < 4:
            raise InputError(
                f"{path}: fewer than 4 patients are {words_of}; a hospital needs both kinds to learn "
                "and to test"
            )
    return found


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _check_values(line: SourceLine, row: Sequence[float]) -> None:
    """Raise `InputError` for what UCI's description does not allow in a column."""
    for name, (at, least, most) in _SPANS.items():
        if not math.isnan(row[at]) and not least <= row[at] <= most:
            raise line.error(
                f"{name} from {least} to {most} in column {at + 1}, not {row[at]:g}; {_WORD}"
            )
    for name, (at, codes) in _CODES.items():
        if not math.isnan(row[at]) and row[at] not in codes:
            raise line.error(
                f"{name} as {', '.join(map(str, codes))} in column {at + 1}, not {row[at]:g}; {_WORD}"
            )


def _patients(hospital: str, table: _Values) -> Patients:
    columns = []
    for at, centre, scale in _SCALES.values():
        values = table[:, at].copy()
        if at in (3, 4):  # nobody has none: a zero means that it was not measured
            values[values == 0] = np.nan
        columns.append(np.clip((values - centre) / scale, -4, 4))
    columns += [table[:, at] - 0.5 for at in _FLAGS.values()]
    for at, kinds in _KINDS.values():
        known = np.isfinite(table[:, at])
        columns += [np.where(known, table[:, at] == kind, np.nan) for kind in kinds]
    features = np.nan_to_num(np.column_stack(columns).astype(float), nan=0.0)
    return Patients(hospital=hospital, features=features, ill=(table[:, -1] > 0).astype(float))


def generated(index: int, patients: int, seed: int) -> _Values:
    """Return invented patients in the file's layout (patients, 14); hospitals differ in who comes."""
    rng = np.random.default_rng([seed, index])
    age = np.clip(rng.normal(50 + 3 * (index % 3), 9, patients), 29, 77).round()
    sex = (rng.random(patients) < 0.68).astype(float)
    burden = 0.07 * (age - 54) + 0.9 * (sex - 0.5) + rng.normal(0.4 * (index % 2), 1.3, patients)
    ill = (rng.random(patients) < 1 / (1 + np.exp(-1.3 * burden))).astype(float)
    shift = burden + 0.8 * ill
    angina = (rng.random(patients) < 1 / (1 + np.exp(1.2 - 1.1 * shift))).astype(float)
    pain = np.where(rng.random(patients) < 1 / (1 + np.exp(0.5 - 1.2 * shift)), 4, 0)
    pain = np.where(pain == 4, 4, rng.integers(1, 4, patients))
    rate = np.clip(rng.normal(155 - 8 * shift - 0.5 * (age - 54), 18), 70, 202).round()
    depression = np.clip(rng.normal(0.5 + 0.6 * shift, 0.7), 0, 6).round(1)
    table = np.column_stack(
        [
            *(age, sex, pain, rng.normal(131, 17, patients).round()),
            *(rng.normal(246, 48, patients).round(), rng.integers(0, 2, patients)),
            *(rng.integers(0, 3, patients), rate, angina, depression),
            np.where(depression > 1.2, 2, 1),
            rng.binomial(3, 1 / (1 + np.exp(1.5 - 0.6 * shift))),
            np.where(rng.random(patients) < 1 / (1 + np.exp(0.8 - shift)), 7, 3),
            ill,
        ]
    ).astype(float)
    table[rng.random(table.shape) < 0.05 * (np.arange(_COLUMNS) < _COLUMNS - 1)] = np.nan
    return table


def as_text(table: _Values) -> str:
    """Return patients as a file's text."""
    return "".join(",".join(f"{value:g}" for value in row) + "\n" for row in table)


def columns_of(names: Sequence[str]) -> list[int]:
    """Return where features are."""
    return [FEATURES.index(name) for name in names]
