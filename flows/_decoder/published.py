"""Memory experiments in the layout of Zenodo 6804040, one folder each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from flows._decoder.experiments import Bits, Experiment, coordinates_of
from flows._inputs import InputError, is_whole, read_lines
from orchestrator.wording import counted

if TYPE_CHECKING:
    import stim

__all__ = ["check_folder", "read_experiment"]

T = TypeVar("T")

_PROPERTIES = "properties.yml"
_CIRCUIT = "circuit_ideal.stim"
_EVENTS = "detection_events.b8"
_FLIPS = "obs_flips_actual.01"
_MODEL = "circuit_detector_error_model.dem"
_FOR_EVEN = "pij_from_odd_for_even.dem"
_FOR_ODD = "pij_from_even_for_odd.dem"
_NEEDED = (_PROPERTIES, _CIRCUIT, _EVENTS, _FLIPS, _MODEL)
_PREDICTED = "obs_flips_predicted_by_"
_CODES = {
    "surface_code_memory_experiment": "surface",
    "repetition_code_memory_experiment": "repetition",
}
_LARGEST_BYTES = 1 << 30


def check_folder(folder: str) -> Path:
    """Return the folder of an experiment; raise `InputError` if files of the layout are missing."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise InputError(f"data {folder!r}: no such folder; expected one with {', '.join(_NEEDED)}")
    missing = [name for name in _NEEDED if not (path / name).is_file()]
    if not missing:
        return path
    inside = sorted(one.name for one in path.iterdir() if (one / _EVENTS).is_file())
    remedy = (
        f"; give one of the folders inside, such as {path / inside[0]}"
        if inside
        else "; expected an experiment in the layout of Zenodo 6804040"
    )
    raise InputError(f"data {folder!r}: {', '.join(missing)} not found{remedy}")


def read_experiment(folder: str) -> Experiment:
    """Read an experiment with its published predictions; raise `InputError` where it is not one."""
    import stim

    path = check_folder(folder)
    properties = _properties(path / _PROPERTIES)
    circuit = _parsed(path / _CIRCUIT, stim.Circuit)
    model = _parsed(path / _MODEL, stim.DetectorErrorModel)
    detectors = model.num_detectors
    if (circuit.num_detectors, circuit.num_observables, model.num_observables) != (detectors, 1, 1):
        raise InputError(
            f"{path / _CIRCUIT}: {circuit.num_detectors} detectors and {circuit.num_observables} "
            f"observables, {_MODEL}: {detectors} and {model.num_observables}; expected as many "
            "detectors in both, and one observable"
        )
    packed = _packed(path / _EVENTS, detectors)
    coordinates = coordinates_of(circuit.get_detector_coordinates(), detectors)
    _check_sizes(path / _PROPERTIES, properties, len(packed), coordinates)
    flips = _column(path / _FLIPS, len(packed))
    fitted = [_fitted(path / name, detectors) for name in (_FOR_EVEN, _FOR_ODD)]
    published = {
        file.stem.removeprefix(_PREDICTED).replace("_", " "): _column(file, len(flips))
        for file in sorted(path.glob(f"{_PREDICTED}*.01"))
    }
    notes = (
        ()
        if all(fitted)
        else (f"No models fitted on halves ({_FOR_EVEN}): the circuit's is used.",)
    )
    distance, rounds = properties["distance"], properties["rounds"]
    kind = _CODES[properties["type"]]
    basis = properties.get("basis", "")
    return Experiment(
        title=f"{kind.capitalize()} code, distance {distance}, {counted(int(rounds), 'round')}"
        + (f", basis {basis}" if basis else "")
        + f" ({path.resolve().name})",
        code=kind,
        distance=int(distance),
        rounds=int(rounds),
        detectors=detectors,
        packed=packed,
        flips=flips,
        coordinates=coordinates,
        model=str(model),
        model_for_even=fitted[0] or str(model),
        model_for_odd=fitted[1] or str(model),
        published=published,
        notes=notes,
    )


def _check_sizes(
    path: Path, properties: Mapping[str, str], shots: int, coordinates: NDArray[np.float64]
) -> None:
    """Raise `InputError` if a table tells of other rounds or shots: errors per round would be wrong."""
    times = len(np.unique(coordinates[:, -1]))
    if 1 < times < len(coordinates) and times != int(properties["rounds"]) + 1:
        raise InputError(
            f"{path}: rounds {properties['rounds']}; expected {times - 1}, as the detectors of {_CIRCUIT} "
            f"have {times} times, the last after the rounds"
        )
    stated = properties.get("shots", str(shots))
    if stated != str(shots):
        raise InputError(
            f"{path}: shots {stated!r:.20}; expected {shots}, as in {_EVENTS}: fetch that file again if it "
            "is cut short, else state its shots"
        )


def _properties(path: Path) -> Mapping[str, str]:
    found = {}
    for line in read_lines(path):
        key, colon, value = line.text.partition(":")
        if line.text.strip() and not colon:
            raise line.error("'name: value'")
        found[key.strip()] = value.strip().strip("'\"")
    kind = found.get("type", "")
    if kind not in _CODES:
        raise InputError(f"{path}: type {kind!r}; expected one of {', '.join(_CODES)}")
    for name in ("distance", "rounds"):
        value = found.get(name, "")
        if not is_whole(value) or len(value) > 6 or int(value) < 1:
            raise InputError(f"{path}: {name} {value!r}; expected a whole number from 1")
    return found


def _parsed(path: Path, parse: Callable[[str], T]) -> T:
    text = "\n".join(line.text for line in read_lines(path))
    try:
        return parse(text)
    except (ValueError, IndexError) as error:  # the latter for an unknown instruction
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{path}: {reason}; expected a file of Stim") from None


def _fitted(path: Path, detectors: int) -> str:
    import stim

    if not path.is_file():
        return ""
    model: stim.DetectorErrorModel = _parsed(path, stim.DetectorErrorModel)
    if (model.num_detectors, model.num_observables) != (detectors, 1):
        raise InputError(
            f"{path}: {model.num_detectors} detectors and {model.num_observables} observables; "
            f"expected {detectors} and 1, as in {_MODEL}"
        )
    return str(model)


def _bytes(path: Path) -> NDArray[np.uint8]:
    size = path.stat().st_size
    if not 0 < size <= _LARGEST_BYTES:
        raise InputError(f"{path}: {size} bytes; expected 1 to {_LARGEST_BYTES}")
    return np.fromfile(path, dtype=np.uint8)


def _packed(path: Path, detectors: int) -> NDArray[np.uint8]:
    found, width = _bytes(path), -(-detectors // 8)
    if found.size % width:
        raise InputError(
            f"{path}: {found.size} bytes; expected a multiple of {width}, which is a shot of "
            f"{detectors} detectors"
        )
    rows = found.reshape(-1, width)
    unused = 8 * width - detectors
    if unused and (rows[:, -1] >> (8 - unused)).any():
        raise InputError(f"{path}: bits set beyond detector {detectors - 1}; expected none")
    if len(rows) < 4:
        raise InputError(f"{path}: {len(rows)} shots; expected at least 4")
    return rows


def _column(path: Path, shots: int) -> Bits:
    """Read one observable per line, '0' or '1'."""
    found = _bytes(path)
    lines = found[found != ord("\r")]
    if lines[-1] != ord("\n"):
        lines = np.append(lines, np.uint8(ord("\n")))
    is_line = lines.size == 2 * shots and bool((lines[1::2] == ord("\n")).all())
    if not is_line or not np.isin(lines[::2], (ord("0"), ord("1"))).all():
        raise InputError(f"{path}: expected {shots} lines of '0' or '1', as {_EVENTS} has shots")
    read: Bits = lines[::2] == ord("1")
    return read
