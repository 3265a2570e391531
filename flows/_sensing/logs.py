"""What an accelerometer recorded at rest and after: from a PX4 log, or generated."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows._inputs import InputError, require_extra
from orchestrator.wording import counted

__all__ = ["Leg", "Recording", "generated", "independent", "read_log", "trials_of"]

_Values = NDArray[np.float64]

_LARGEST_BYTES = 2 * 2**30
_BLOCK_S = 1.0
# A block is at rest if nothing turns or shakes in it; a bench's noise is a tenth of this.
_STILL_RAD_S, _STILL_M_S2 = 0.02, 0.15
# The mean of a body at rest stays; a slow lift would change it by more.
_STEADY_M_S2 = 0.05
_LONGEST_GAP_S = 0.2
_LONGEST_S = 1e6
_LEAST_RATE_HZ = 20.0
_PLAUSIBLE_M_S2 = (8.0, 11.6)  # of a body at rest: gravity and the bias of a cheap sensor
_GENERATED_RATE_HZ = 250.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A log. times: (n,) in s from its start; accelerations: specific force (n, 3) in m/s².

    rates: turn rates (n, 3) in rad/s; None where the log has none.
    """

    title: str
    times: _Values
    accelerations: _Values
    rates: _Values | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """A rest and the navigation after it, in the axes of the sensor.

    times: (n,) in s from the beginning of the navigation. read, truth: specific force (n, 3) in m/s²,
    as the accelerometer read it, and as it was. rested: readings of the rest before it (m, 3), whose
    true specific force was at_rest (3,). cut_s: when both together begin and end in the log that they
    were cut out of, None for a drive of its own.
    """

    times: _Values
    read: _Values
    truth: _Values
    rested: _Values
    at_rest: _Values
    cut_s: tuple[float, float] | None = None

    @property
    def noise(self) -> _Values:
        """Standard deviation of a single reading on each axis, in m/s²; from neighbours at rest."""
        found: _Values = np.std(np.diff(self.rested, axis=0), axis=0, ddof=1) / math.sqrt(2)
        return found


def read_log(path: str) -> Recording:
    """Read a ULog file, or the only one of a folder. Raises `InputError`."""
    require_extra("sensing", ("pyulog",))
    file = _only_log(Path(path).expanduser())
    topics = _topics(file)
    if "sensor_combined" in topics:
        data = topics["sensor_combined"]
        columns = [f"accelerometer_m_s2[{axis}]" for axis in range(3)]
        turning = [f"gyro_rad[{axis}]" for axis in range(3)]
    elif "sensor_accel" in topics:
        data, columns, turning = topics["sensor_accel"], ["x", "y", "z"], []
    else:
        raise InputError(
            f"{file}: topics {', '.join(sorted(topics)) or 'none'}; expected sensor_combined or "
            "sensor_accel, which PX4 logs by default"
        )
    missing = [name for name in ["timestamp", *columns] if name not in data]
    if missing:
        raise InputError(f"{file}: no {', '.join(missing)} in its accelerometer's topic")
    times = (data["timestamp"].astype(np.int64) - int(data["timestamp"][0])) * 1e-6
    has_rates = bool(turning) and all(name in data for name in turning)
    rates = np.column_stack([data[name] for name in turning]) if has_rates else None
    return _checked(
        Recording(
            title=file.name,
            times=times,
            accelerations=np.column_stack([data[name] for name in columns]).astype(float),
            rates=None if rates is None else rates.astype(float),
        ),
        file,
    )


def _only_log(path: Path) -> Path:
    if path.is_dir():
        found = sorted(path.glob("*.ulg"))
        if len(found) != 1:
            raise InputError(f"{path}: {len(found)} files *.ulg; name the one to read")
        return found[0]
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a ULog of PX4 (*.ulg), or its folder")
    if path.stat().st_size > _LARGEST_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes; expected at most {_LARGEST_BYTES}")
    return path


def _topics(file: Path) -> dict[str, dict[str, Any]]:
    """Return the columns of each topic that is not empty, of the instance with most readings."""
    from pyulog import ULog

    try:
        with file.open("rb") as stream:  # pyulog leaves a file open that it cannot read
            log = ULog(stream, ["sensor_combined", "sensor_accel"])
    except Exception as error:  # noqa: BLE001 - whatever a parser meets in a file that is no log
        raise InputError(f"{file}: cannot be read as a ULog ({error!r:.200})") from None
    found: dict[str, dict[str, Any]] = {}
    read = {id(one): len(one.data.get("timestamp", ())) for one in log.data_list}
    for one in sorted(log.data_list, key=lambda one: (-read[id(one)], int(one.multi_id))):
        if read[id(one)]:
            found.setdefault(str(one.name), one.data)
    return found


def _checked(recording: Recording, file: Path) -> Recording:
    parts = {"accelerations": recording.accelerations, "turn rates": recording.rates}
    for what, values in parts.items():
        if values is not None and not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values).all(axis=1)))
            raise InputError(
                f"{file}: {what} that are no numbers, first in row {row}, "
                f"{recording.times[row]:.3f} s from its start"
            )
    steps = np.diff(recording.times)
    if len(steps) < 2:
        raise InputError(
            f"{file}: {len(recording.times)} readings; expected a rest of some seconds"
        )
    for row in np.flatnonzero(steps <= 0)[:1]:
        raise InputError(
            f"{file}: row {row + 1} comes {steps[row] + 0.0:g} s after the one above, of "
            f"{counted(len(recording.times), 'reading')}; expected rising timestamps: leave out what was "
            "logged twice"
        )
    if recording.times[-1] > _LONGEST_S:
        raise InputError(
            f"{file}: its readings span {recording.times[-1]:.3g} s; expected at most {_LONGEST_S:g}, "
            "timestamps in microseconds"
        )
    rate_hz = 1 / float(np.median(steps))
    if rate_hz < _LEAST_RATE_HZ:
        raise InputError(
            f"{file}: {rate_hz:.3g} readings per second; expected at least {_LEAST_RATE_HZ:g}"
        )
    return recording


def trials_of(
    recording: Recording, count: int, rest_s: float, duration_s: float, gravity: float
) -> list[Leg]:
    """Cut trials out of the longest rest of a log, evenly spread; they overlap where it is short.

    A body at rest has the specific force of gravity; only its direction is unknown, and is taken from
    the mean over the rest. So the truth rests on the same readings: it is partly circular.
    """
    first, last = _longest_rest(recording)
    needed_s = rest_s + duration_s
    if last - first < needed_s:
        raise InputError(
            f"{recording.title}: its longest rest is {last - first:.3g} s long; expected {needed_s:g} s, "
            "rest and duration together; set shorter ones"
        )
    resting = (recording.times >= first) & (recording.times <= last)
    mean = recording.accelerations[resting].mean(axis=0)
    strength = float(np.linalg.norm(mean))
    if not _PLAUSIBLE_M_S2[0] <= strength <= _PLAUSIBLE_M_S2[1]:
        raise InputError(
            f"{recording.title}: at rest it reads {strength:.4g} m/s²; expected gravity, in m/s²"
        )
    force = gravity * mean / strength
    found = []
    for begin in np.linspace(first, last - needed_s, count):
        start = begin + rest_s
        before = (recording.times >= begin) & (recording.times < start)
        during = (recording.times >= start) & (recording.times < start + duration_s)
        read = recording.accelerations[during]
        found.append(
            Leg(
                times=recording.times[during] - recording.times[during][0],
                read=read,
                truth=np.broadcast_to(force, read.shape).copy(),
                rested=recording.accelerations[before],
                at_rest=force,
                cut_s=(float(begin), float(start + duration_s)),
            )
        )
    return found


def independent(legs: Sequence[Leg]) -> int:
    """Return how many of so many legs can be without an overlap of two: all, if they are no cuts."""
    cuts = [leg.cut_s for leg in legs if leg.cut_s is not None]
    if not cuts:
        return len(legs)
    long_s = cuts[0][1] - cuts[0][0]
    whole_s = max(end for _, end in cuts) - min(begin for begin, _ in cuts)
    return max(1, min(len(legs), int(whole_s / long_s + 1e-9)))


def _longest_rest(recording: Recording) -> tuple[float, float]:
    """Return when the longest row of blocks at rest begins and ends."""
    blocks = np.floor(recording.times / _BLOCK_S).astype(int)
    edges = np.searchsorted(blocks, np.arange(blocks[-1] + 2))
    means: list[_Values | None] = []
    for begin, end in itertools.pairwise(edges):
        means.append(_mean_if_still(recording, int(begin), int(end)))
    means.pop()  # the last block is cut short
    best, begin = (0, 0), 0
    for block, mean in enumerate(means):
        before = means[block - 1] if block > begin else None
        if mean is None:
            begin = block + 1
        elif before is not None and np.abs(mean - before).max() > _STEADY_M_S2:
            begin = block
        if block + 1 - begin > best[1] - best[0]:
            best = (begin, block + 1)
    return best[0] * _BLOCK_S, best[1] * _BLOCK_S


def _mean_if_still(recording: Recording, begin: int, end: int) -> _Values | None:
    if end - begin < _LEAST_RATE_HZ * _BLOCK_S / 2:
        return None
    gaps = np.diff(recording.times[max(begin - 1, 0) : end + 1])
    read = recording.accelerations[begin:end]
    if gaps.max() > _LONGEST_GAP_S or read.std(axis=0).max() > _STILL_M_S2:
        return None
    if recording.rates is not None and recording.rates[begin:end].std(axis=0).max() > _STILL_RAD_S:
        return None
    mean: _Values = read.mean(axis=0)
    return mean


def generated(count: int, rest_s: float, duration_s: float, gravity: float, seed: int) -> list[Leg]:
    """Return drives of a level vehicle after a rest, whose accelerations are known.

    The accelerometer is that of a flight controller: 250 readings per second with noise of 0.01 m/s²,
    a bias of 0.1 m/s² that wanders by 0.001 m/s² in a second, and a scale wrong by 0.1 %.
    """
    dt = 1 / _GENERATED_RATE_HZ
    resting, moving = round(rest_s / dt), round(duration_s / dt) + 1
    found = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        times: _Values = dt * np.arange(moving, dtype=np.float64)
        truth = np.tile([0.0, 0.0, -gravity], (resting + moving, 1))
        strengths = np.array([1.0, 0.6, 0.2])
        for _ in range(4):
            # A whole number of waves begins and ends at rest; the roughness of a road is faster.
            turns = rng.integers(1, max(2, round(duration_s / 3)), 3) / duration_s
            truth[resting:] += (
                strengths * rng.normal(size=3) / 2 * np.sin(2 * np.pi * np.outer(times, turns))
            )
            truth[resting:] += 0.02 * np.sin(
                2 * np.pi * np.outer(times, rng.uniform(5, 20, 3)) + rng.uniform(0, 6.28, 3)
            )
        bias = rng.normal(0, 0.1, 3) + np.cumsum(
            rng.normal(0, 0.001 * math.sqrt(dt), truth.shape), axis=0
        )
        read = truth * (1 + rng.normal(0, 0.001, 3)) + bias + rng.normal(0, 0.01, truth.shape)
        found.append(
            Leg(
                times=times,
                read=read[resting:],
                truth=truth[resting:],
                rested=read[:resting],
                at_rest=truth[0],
            )
        )
    return found
