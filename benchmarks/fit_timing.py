"""Refit the timing models of the FiQCI devices and print their error on rows held out.

    python benchmarks/fit_timing.py [FOLDER]

FOLDER holds `helmi.csv`, `vtt-q50.csv` and `aaltoq20.csv` with the columns num_qubits, depth,
batches (or num_circuits), shots, qpu_seconds, and possibly error; by default it is
`../shared/data/fiqci` beside the checkout. The rows are those of the FiQCI resource-estimator.

Every fourth row is held out. Which form a device gets is decided by cross-validation inside
the other rows alone, so that the held-out error printed has seen no choice.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from backends.timing import TimingModel

__all__ = ["FORMS", "PUBLISHED", "Fit", "Row", "choose", "fit", "held_out", "mape", "read_rows"]

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "fiqci"
HOLD_OUT_EVERY = 4
FOLDS = 6
# A form with more coefficients must be better by this much to be preferred.
WORTH_A_COEFFICIENT = 0.98
# Relative residuals far above this count linearly: outliers do not pull, and the loss comes
# close to the mean absolute percentage error that is reported.
OUTLIER_SCALE = 0.02

PUBLISHED = {
    "helmi": TimingModel(init_s=2.668, shot_s=4.316e-4),
    "vtt-q50": TimingModel(init_s=0.8837, shot_s=6.252e-4, decay=0.98593, decay_cap=19.29),
    "aaltoq20": TimingModel(shot_s=2.955e-4, qubit_shot_s=1.37e-5),
}

# Simplest first. "decay" stands for decay and decay_cap together.
FORMS: tuple[tuple[str, ...], ...] = (
    ("init_s", "shot_s"),
    ("init_s", "qubit_init_s", "shot_s"),
    ("init_s", "shot_s", "qubit_shot_s"),
    ("init_s", "shot_s", "layer_shot_s"),
    ("init_s", "shot_s", "decay", "decay_cap"),
    ("init_s", "qubit_init_s", "shot_s", "layer_shot_s"),
    ("init_s", "qubit_init_s", "shot_s", "qubit_shot_s", "layer_shot_s"),
    ("init_s", "qubit_init_s", "shot_s", "layer_shot_s", "decay", "decay_cap"),
)

# Start, scale and bounds per coefficient; no time may be negative.
_START = {
    "init_s": 1.0,
    "qubit_init_s": 0.01,
    "shot_s": 4e-4,
    "qubit_shot_s": 1e-6,
    "layer_shot_s": 1e-7,
    "decay": 0.99,
    "decay_cap": 10.0,
}
_BOUNDS = {"decay": (0.5, 1.5), "decay_cap": (1.0, 30.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured job. circuits: per job; shots: per circuit."""

    num_qubits: int
    depth: int
    circuits: int
    shots: int
    qpu_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A form's coefficients and its mean relative error in cross-validation, in percent."""

    form: tuple[str, ...]
    model: TimingModel
    cross_validation_percent: float


def read_rows(path: Path) -> tuple[list[Row], int]:
    """Read the jobs that succeeded; also return how many rows were left out.

    Left out are rows with anything in the error column, or without a positive time.
    """
    rows, left_out = [], 0
    with path.open(newline="", encoding="utf-8") as file:
        for record in csv.DictReader(file):
            try:
                row = Row(
                    num_qubits=int(record["num_qubits"]),
                    depth=int(record["depth"]),
                    circuits=int(record.get("batches") or record["num_circuits"]),
                    shots=int(record["shots"]),
                    qpu_seconds=float(record["qpu_seconds"]),
                )
            except (KeyError, TypeError, ValueError):
                left_out += 1
                continue
            if (record.get("error") or "").strip() or row.qpu_seconds <= 0:
                left_out += 1
            else:
                rows.append(row)
    return rows, left_out


def held_out(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Split into rows to fit on and rows held out: the 4th, 8th, … of the file."""
    kept = [row for i, row in enumerate(rows, 1) if i % HOLD_OUT_EVERY]
    return kept, list(rows[HOLD_OUT_EVERY - 1 :: HOLD_OUT_EVERY])


def predict(model: TimingModel, row: Row) -> float:
    """Return the modelled QPU-seconds of a measured job."""
    return model.duration_s(
        circuits=row.circuits,
        shots=row.circuits * row.shots,
        num_qubits=row.num_qubits,
        depth=row.depth,
    )


def mape(model: TimingModel, rows: Sequence[Row]) -> float:
    """Return the mean absolute percentage error of a model on rows."""
    errors = [abs(predict(model, row) / row.qpu_seconds - 1) for row in rows]
    return 100 * float(np.mean(errors))


def fit(rows: Sequence[Row], form: Sequence[str]) -> TimingModel:
    """Return the coefficients of a form that fit the rows best, by relative error."""
    start = np.array([_START[name] for name in form])
    bounds = np.array([_BOUNDS.get(name, (0.0, np.inf)) for name in form]).T

    def model_of(scaled: NDArray[np.float64]) -> TimingModel:
        values = zip(form, (scaled * start).tolist(), strict=True)
        return TimingModel(**dict(values))

    def residuals(scaled: NDArray[np.float64]) -> list[float]:
        model = model_of(scaled)
        return [predict(model, row) / row.qpu_seconds - 1 for row in rows]

    found = least_squares(
        residuals,
        np.ones(len(form)),
        bounds=bounds / start,
        loss="soft_l1",
        f_scale=OUTLIER_SCALE,
    )
    return model_of(found.x)


def cross_validate(rows: Sequence[Row], form: Sequence[str]) -> float:
    """Return the mean absolute percentage error over folds; row i is in fold i mod 6."""
    total = 0.0
    for fold in range(FOLDS):
        rest = [row for i, row in enumerate(rows) if i % FOLDS != fold]
        part = rows[fold::FOLDS]
        total += mape(fit(rest, form), part) * len(part)
    return total / len(rows)


def choose(rows: Sequence[Row]) -> list[Fit]:
    """Fit every form to the rows; the form to use comes first, the others by their error."""
    fits = [
        Fit(form=form, model=fit(rows, form), cross_validation_percent=cross_validate(rows, form))
        for form in FORMS
    ]
    best = fits[0]
    for candidate in fits[1:]:
        ratio = candidate.cross_validation_percent / best.cross_validation_percent
        if ratio < WORTH_A_COEFFICIENT:
            best = candidate
    others = sorted(
        (one for one in fits if one is not best), key=lambda one: one.cross_validation_percent
    )
    return [best, *others]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print, per device, the coefficients and the held-out error of each form."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER)
    folder: Path = parser.parse_args(arguments).folder
    for device, published in PUBLISHED.items():
        path = folder / f"{device}.csv"
        if not path.is_file():
            sys.stderr.write(f"{path} is missing; give the folder with the FiQCI rows\n")
            return 2
        rows, left_out = read_rows(path)
        kept, held = held_out(rows)
        print(f"{device}: {len(kept)} rows fitted, {len(held)} held out, {left_out} left out")
        print(f"  published   held-out MAPE {mape(published, held):6.2f} %")
        for rank, one in enumerate(choose(kept)):
            mark = "chosen" if rank == 0 else "other"
            values = "  ".join(f"{n} = {getattr(one.model, n):.4g}" for n in one.form)
            print(
                f"  {mark:11s} held-out MAPE {mape(one.model, held):6.2f} %  "
                f"cross-validation {one.cross_validation_percent:6.2f} %  {values}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
