"""Profile files, shipped with the package or one's own, as `Profile` values."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from backends.api import QualityWindow
from backends.error_rates import Coherence, depolarising_parameter
from backends.gates import MOVE
from backends.metering import FORMULAS, Metering, MeteringFormula, formula_class, formula_names
from backends.profiles.profile import (
    GATE_QUBITS,
    NativeGate,
    Pairs,
    PrecisionRule,
    Profile,
    Readout,
)
from backends.simulator import shipped_profiles
from backends.suggestions import did_you_mean
from backends.timing import TimingModel

__all__ = ["ProfileError", "ProfileFile", "lattice_pairs", "load_profile", "profile_text"]

_SUFFIX = ".toml"
_QUBIT, _GAP = "o", "."
_Text = Annotated[str, Field(min_length=1)]
_Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Probability = Annotated[float, Field(ge=0, le=1)]
_ControlFlow = Literal["for_loop", "if_else", "switch_case", "while_loop"]
_Hour = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
# Where Pydantic names its own types, or does not say how a value is written.
_EXPECTED = {
    **dict.fromkeys(("dataclass_type", "dict_type", "model_type"), "a table"),
    **dict.fromkeys(
        ("datetime_type", "timezone_aware"),
        "a date and time with offset, such as 2026-11-01T00:00:00Z",
    ),
    "bool_type": "true or false",
    "float_type": "a number",
    "greater_than": "a whole number ≥ 1",
    "greater_than_equal": "a number ≥ 0",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "less_than_equal": "a number from 0 to 1",
    "string_pattern_mismatch": '"HH:MM", UTC',
    "string_too_short": "a text that is not empty",
    "string_type": "a text in quotes",
}


class ProfileError(ValueError):
    """A profile does not exist, or its file is not valid."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Device(_Table):
    qubits: PositiveInt
    coupling: Any
    unusable_qubits: frozenset[int] = frozenset()
    mid_circuit_measurement: bool = True
    control_flow: tuple[_ControlFlow, ...] = ("if_else", "switch_case", "while_loop")
    site_transpiles: bool = False


class _Gate(_Table):
    duration_s: _Number
    error: _Probability


class _Coherence(_Table):
    t1_s: _Number
    t2_s: _Number
    resonator_t1_s: _Number | None = None
    resonator_t2_s: _Number | None = None
    idle_relaxation: bool = False


class _Readout(_Table):
    zero_as_one: _Probability
    one_as_zero: _Probability
    duration_s: _Number = 0.0


class _Limits(_Table):
    payloads: Annotated[frozenset[Literal["sampler", "estimator"]], Field(min_length=1)] = (
        frozenset({"sampler"})
    )
    precision: PrecisionRule = "sampled"
    coalesces: bool = False
    shots_per_task: PositiveInt | None = None
    circuits_per_task: PositiveInt | None = None
    concurrent_tasks: PositiveInt = 1
    credential_lifetime_s: _Number | None = None


class _Window(_Table):
    start: _Hour
    end: _Hour


class _Metering(_Table, extra="allow"):  # beside these: the parameters of the formula
    kind: str = "qpu-seconds"
    unit: _Text = "qpu-s"
    bills_failed: bool = False
    bills_cancelled: bool = False


class _Calibration(_Table):
    taken_at: AwareDatetime


class ProfileFile(_Table):
    """The tables of a profile file."""

    name: _Text
    title: _Text
    device: _Device
    gates: dict[str, _Gate]
    coherence: _Coherence | None = None
    readout: _Readout
    limits: _Limits = _Limits()
    quality_windows: tuple[_Window, ...] = ()
    timing: TimingModel = TimingModel()
    metering: _Metering = _Metering()
    calibration: _Calibration
    sources: dict[str, str] = {}


def load_profile(name_or_path: str) -> Profile:
    """Return a shipped profile, or that of a path, which contains a slash or ends in ``.toml``."""
    shipped = not _is_path(name_or_path)
    where = name_or_path + _SUFFIX if shipped else str(Path(name_or_path).expanduser())
    return _parsed(profile_text(name_or_path), where)


def profile_text(name_or_path: str) -> str:
    """Return a profile as TOML. Raises `ProfileError` where there is none."""
    if _is_path(name_or_path):
        try:
            return Path(name_or_path).expanduser().read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ProfileError(f"profile {name_or_path!r} cannot be read: {error}") from error
    names = shipped_profiles()
    if name_or_path not in names:
        raise ProfileError(
            f"no profile {name_or_path!r}; there are {', '.join(names)}; for a file of your own, "
            f"give its path, ending in .toml{did_you_mean(name_or_path, names)}"
        )
    resource = resources.files("backends.profiles").joinpath(name_or_path + _SUFFIX)
    return resource.read_text(encoding="utf-8")


def _is_path(name_or_path: str) -> bool:
    return name_or_path.endswith(_SUFFIX) or "/" in name_or_path


def _parsed(text: str, where: str) -> Profile:
    try:
        content = tomllib.loads(text)
        # From Python a strict model would want instances of its dataclasses, from JSON it does not.
        file = ProfileFile.model_validate_json(json.dumps(content, default=str))
        return _profile(file, dict(_leaves(content)))
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{where} is not TOML: {error}") from error
    except ValidationError as error:
        raise ProfileError(f"{where}: {_sentence(error)}") from error
    except ValueError as error:
        raise ProfileError(f"{where}: {error}") from error


def _profile(file: ProfileFile, values: Mapping[str, Any]) -> Profile:
    for path, value in values.items():
        if isinstance(value, int | float) and not 0 <= value < float("inf"):
            raise ValueError(f"{path}: {value!r}; expected a number ≥ 0")
    device, coherence, limits = file.device, file.coherence, file.limits
    for qubit in device.unusable_qubits:
        if not 0 <= qubit < device.qubits:
            raise ValueError(
                f"device.unusable_qubits: {qubit}; expected indices from 0 to {device.qubits - 1}"
            )
    profile = Profile(
        name=file.name,
        title=file.title,
        num_qubits=device.qubits,
        unusable_qubits=tuple(sorted(device.unusable_qubits)),
        coupling=_coupling(device.coupling, device.qubits),
        resonator=device.qubits if device.coupling == "star" else None,
        gates=tuple(NativeGate(name=name, **dict(gate)) for name, gate in file.gates.items()),
        coherence=_coherence(coherence, ""),
        resonator_coherence=_coherence(coherence, "resonator_"),
        idle_relaxation=coherence is not None and coherence.idle_relaxation,
        readout=Readout(**dict(file.readout)),
        mid_circuit_measurement=device.mid_circuit_measurement,
        control_flow=device.control_flow if device.mid_circuit_measurement else (),
        site_transpiles=device.site_transpiles,
        payloads=limits.payloads,
        precision=limits.precision,
        coalesces=limits.coalesces,
        max_shots=limits.shots_per_task,
        max_circuits=limits.circuits_per_task,
        max_concurrent_tasks=limits.concurrent_tasks,
        credential_lifetime_s=limits.credential_lifetime_s,
        quality_windows=tuple(QualityWindow(**dict(window)) for window in file.quality_windows),
        timing=file.timing,
        metering=_metering(file.metering),
        taken_at=file.calibration.taken_at,
        sources=_sources(file.sources, list(values)),
    )
    _check_gates(profile)
    return profile


def _coupling(stated: Any, num_qubits: int) -> Pairs | None:
    """Return the pairs of a drawn lattice or a list; None for all to all, or a star."""
    if stated in ("all", "star"):
        return None
    if isinstance(stated, list) and stated:
        if all(isinstance(row, str) and set(row) <= {_QUBIT, _GAP} for row in stated):
            drawn, pairs = lattice_pairs(stated)
            if drawn != num_qubits:
                raise ValueError(
                    f"device.coupling: draws {drawn} qubits, device.qubits is {num_qubits}"
                )
            return pairs
        if all(_is_pair(pair, num_qubits) for pair in stated):
            return tuple(dict.fromkeys((min(pair), max(pair)) for pair in stated))
    raise ValueError(
        f'device.coupling: {stated!r}; expected "all", "star", pairs of different qubits below '
        f'{num_qubits} like [[0, 1], [1, 2]], or rows like ["oo", ".o"]'
    )


def _is_pair(pair: Any, num_qubits: int) -> bool:
    whole = isinstance(pair, list) and all(type(q) is int and 0 <= q < num_qubits for q in pair)
    return whole and len(pair) == len(set(pair)) == 2


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


def _coherence(table: _Coherence | None, prefix: str) -> Coherence | None:
    if table is None:
        return None
    t1_s, t2_s = (getattr(table, f"{prefix}{name}") for name in ("t1_s", "t2_s"))
    if t1_s is None and t2_s is None:
        return None
    if t1_s is None or t2_s is None or not 0 < t2_s <= 2 * t1_s:
        raise ValueError(
            f"coherence: {prefix}t1_s = {t1_s}, {prefix}t2_s = {t2_s}; expected 0 < T2 ≤ 2·T1"
        )
    return Coherence(t1_s=t1_s, t2_s=t2_s)


def _metering(table: _Metering) -> Metering:
    common = dict(table)
    stated = {name: common.pop(name) for name in table.model_extra or {}}
    kind = common.pop("kind")
    if kind not in formula_names():
        raise ValueError(
            f"metering.kind: {kind!r}; expected one of {', '.join(formula_names())}"
            f"{did_you_mean(kind, formula_names())}"
        )
    formula = formula_class(kind)
    own = [field.name for field in fields(formula)]  # type: ignore[arg-type]
    # A parameter of another formula of ours is not an error: earlier versions took them all.
    known = {*own, *(field.name for other in FORMULAS.values() for field in fields(other))}  # type: ignore[arg-type]
    for name, value in stated.items():
        if name not in known:
            raise ValueError(f"metering.{name}: no such key{did_you_mean(name, known)}")
        if type(value) not in (int, float):
            raise ValueError(f"metering.{name}: {value!r}; expected a number")
    try:
        made: MeteringFormula = formula(
            **{name: float(stated[name]) for name in own if name in stated}
        )
    except TypeError as error:
        raise ValueError(f"metering: {kind}: {error}") from error
    return Metering(formula=made, **common)


def _check_gates(profile: Profile) -> None:
    """Raise if the gates cannot compute, do not fit the coupling, or err too little."""
    names = {gate.name for gate in profile.gates}
    unknown = sorted(names - GATE_QUBITS.keys())
    if unknown:
        raise ValueError(
            f"gates.{unknown[0]}: no such gate; there are {', '.join(sorted(GATE_QUBITS))}"
        )
    if not any(gate.num_qubits == 1 for gate in profile.gates):
        raise ValueError("gates: none acts on one qubit")
    star = profile.resonator is not None
    if (MOVE in names) != star:
        raise ValueError(f'gates: coupling = "star" and the gate {MOVE!r} need each other')
    if star and profile.site_transpiles:
        raise ValueError(
            "device.site_transpiles: a star's MOVEs are put in before it is sent to; write false"
        )
    if star and "cz" not in names:
        raise ValueError("gates: a star needs the gate 'cz'")
    for gate in profile.gates:
        if gate.error == gate.duration_s == 0:
            continue  # a change of frame, not a pulse
        try:
            depolarising_parameter(gate.error, gate.duration_s, profile.gate_coherences(gate))
        except ValueError as error:
            raise ValueError(f"gates.{gate.name}: {error}") from error


def _sources(stated: Mapping[str, str], values: list[str]) -> dict[str, str]:
    """Return the source of every value: its own entry, or that of the table around it."""
    around = {path: [path.rsplit(".", n)[0] for n in range(path.count(".") + 1)] for path in values}
    known = sorted({name for names in around.values() for name in names})
    for path in stated:
        if path not in known:
            raise ValueError(
                f"sources: {path!r} names no value of this file{did_you_mean(path, known)}"
            )
    return {
        path: next((stated[name] for name in names if name in stated), "not stated")
        for path, names in around.items()
    }


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values, without the names of the profile and the sources."""
    for key, value in content.items():
        path = prefix + key
        if path in ("name", "sources", "title"):
            continue
        if isinstance(value, dict):
            yield from _leaves(value, path + ".")
        else:
            yield path, value


def _sentence(error: ValidationError) -> str:
    """Return the first fault: the dotted key, the value and what was expected."""
    fault = error.errors(include_url=False)[0]
    *tables, key = fault["loc"]
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "missing":
        return f"{path}: is missing; a profile must state it"
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = list(_keys(tables))
        hint = did_you_mean(str(key), known) or f"; there are: {', '.join(known)}"
        return f"{path}: no such key{hint}"
    expected = _EXPECTED.get(fault["type"]) or fault["msg"].removeprefix("Input should be ")
    return f"{path}: {fault['input']!r}; expected {expected}"


def _keys(tables: list[Any]) -> dict[str, Any]:
    """Return the keys that a table of the file may have."""
    stated: Any = ProfileFile.model_fields[tables[0]].annotation if tables else ProfileFile
    kind = next(k for k in (*get_args(stated), stated) if hasattr(k, "__annotations__"))
    return dict(kind.__annotations__)
