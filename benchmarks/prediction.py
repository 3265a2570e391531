"""How far predicted QPU-seconds are off, on measured jobs of three devices that no fit has seen."""

from __future__ import annotations

from collections.abc import Sequence

from backends.profiles import load_profile
from backends.timing import TimingModel
from benchmarks.fit_timing import DEFAULT_FOLDER, PUBLISHED, held_out, mape, predict, read_rows
from benchmarks.fit_timing import Row as Measured
from benchmarks.rows import Row
from orchestrator.broker.core.prediction import Accuracy

__all__ = ["measure", "online_error"]

# Device: the profile, and the error that its published formula states of itself, in percent.
_DEVICES = {"helmi": ("helmi", 2.6), "vtt-q50": ("vtt-q50", 17.4), "aaltoq20": ("aalto-q20", 8.5)}


def online_error(model: TimingModel, rows: Sequence[Measured]) -> float:
    """Return the mean absolute percentage error where each row corrects those after it."""
    accuracy = Accuracy()
    for row in rows:
        seconds = predict(model, row) * accuracy.factor
        accuracy.learn(predicted_s=seconds, actual_s=row.qpu_seconds, circuits=row.circuits)
    return 100 * accuracy.error


def measure() -> list[Row]:
    """Compare the profiles' models, as they are and corrected online, with the published ones."""
    rows = []
    for device, (name, stated) in _DEVICES.items():
        _, held = held_out(read_rows(DEFAULT_FOLDER / f"{device}.csv")[0])
        timing = load_profile(name).timing
        published = mape(PUBLISHED[device], held)
        for kind, error in (
            ("the profile's model", mape(timing, held)),
            ("corrected online", online_error(timing, held)),
        ):
            rows.append(
                Row(
                    name=f"{name}, {kind}: mean error of predicted QPU-seconds",
                    ours=f"{error:.2f} %",
                    against=f"{published:.2f} %",
                    what=f"published formula, the same {len(held)} rows (it states {stated} %)",
                    ratio=error / published,
                    goal=f"≤ {stated} %",
                    met=round(error, 1) <= stated,
                )
            )
    return rows
