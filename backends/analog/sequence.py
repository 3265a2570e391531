"""Sequences in Pulser's abstract representation: read, and checked against a device (pure)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backends.analog.device import RydbergDevice
from backends.analog.waveforms import (
    LONGEST_NS,
    is_finite,
    waveform_duration_ns,
    waveform_samples,
)
from backends.errors import PayloadRejected

__all__ = ["Atom", "RydbergSequence", "check_sequence", "check_size", "parse_sequence"]

_REQUIRED = ("name", "register", "channels", "variables", "operations", "measurement", "device")
_OPERATIONS: Mapping[str, tuple[str, ...]] = {  # what of each names a channel
    "target": ("channel",),
    "align": ("channels",),
    "delay": ("channel",),
    "pulse": ("channel",),
    "pulse_arbitrary_phase": ("channel",),
    "phase_shift": (),
    "enable_eom_mode": ("channel",),
    "modify_eom_setpoint": ("channel",),
    "add_eom_pulse": ("channel",),
    "disable_eom_mode": ("channel",),
    "add_dmm_detuning": (),
    "config_slm_mask": (),
    "config_detuning_map": (),
    "truncate": ("channel",),
}
_BASES = ("ground-rydberg", "digital", "XY")
_MOST_ATOMS = 10_000
_LEAST_GAP_UM = 1e-6  # atoms are given to so many digits
_LONGEST_NAME = 100
_HARDCODED_LEVELS = {"Chadoq2": 70, "IroiseMVP": 60, "MockDevice": 70}


@dataclass(frozen=True, slots=True, kw_only=True)
class Atom:
    """An atom at its place in µm."""

    name: str
    place_um: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RydbergSequence:
    """A sequence whose structure was checked.

    channels: of the device, by the sequence's names. measurement: the basis. rydberg_level: of the
    device that it was written for; None if that is not stated. traps: of its layout, if it has one.
    duration_ns: of all pulses and delays on the longest channel, without what the device adds
    between pulses; None where Pulser alone can compute it.
    """

    atoms: tuple[Atom, ...]
    channels: Mapping[str, str]
    operations: tuple[Mapping[str, Any], ...]
    measurement: str
    device: str
    rydberg_level: int | None
    traps: int | None
    duration_ns: int | None


def parse_sequence(data: bytes) -> RydbergSequence:
    """Read a sequence from the UTF-8 JSON of Pulser's ``Sequence.to_abstract_repr``.

    Raises `PayloadRejected` for other bytes, for a sequence with free variables or places, and for
    one that measures nothing.
    """
    try:
        stated = json.loads(data.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise PayloadRejected(
            f"the sequence is not JSON: {error}; give what Pulser's Sequence.to_abstract_repr() "
            "returns"
        ) from error
    if not isinstance(stated, dict):
        raise PayloadRejected("the sequence is no JSON object; give Sequence.to_abstract_repr()")
    if stated.get("version") != "1":
        raise PayloadRejected(
            f"a sequence of version {stated.get('version')!r:.60}; only version '1' of Pulser's "
            "abstract representation is known"
        )
    missing = [name for name in _REQUIRED if name not in stated]
    if missing:
        raise PayloadRejected(f"the sequence lacks {', '.join(missing)}")
    if stated["variables"] != {}:
        raise PayloadRejected(
            "the sequence has free variables; give them values with Pulser's Sequence.build()"
        )
    channels = _channels(stated["channels"])
    operations = _operations(stated["operations"], channels)
    if stated["measurement"] not in _BASES:
        raise PayloadRejected(
            f"the sequence measures {stated['measurement']!r:.60}; end it with "
            "Sequence.measure('ground-rydberg'), or another basis"
        )
    name, level = _written_for(stated["device"])
    return RydbergSequence(
        atoms=_atoms(stated["register"]),
        channels=channels,
        operations=operations,
        measurement=stated["measurement"],
        device=name,
        rydberg_level=level,
        traps=_traps(stated.get("layout")),
        duration_ns=_duration_ns(operations, channels),
    )


def check_sequence(sequence: RydbergSequence, device: RydbergDevice) -> None:
    """Raise `PayloadRejected` for a sequence that a device can never run."""
    name = device.name
    level = sequence.rydberg_level
    if level is not None and level != device.rydberg_level:
        raise PayloadRejected(
            f"the sequence was written for {sequence.device}, whose atoms interact at Rydberg level "
            f"{level}; {name} has {device.rydberg_level}: write it for that device, with "
            "Sequence.switch_device() in Pulser"
        )
    check_size(len(sequence.atoms), device)
    _check_places(sequence, device)
    for given, channel in sequence.channels.items():
        if device.channel(channel) is None:
            there = ", ".join(one.id for one in device.channels)
            raise PayloadRejected(
                f"channel {given!r} is {channel!r:.60} of the device; {name} has: {there}"
            )
    if (
        None not in (sequence.duration_ns, device.max_duration_ns)
        and (sequence.duration_ns or 0) > (device.max_duration_ns or 0)
    ):  # fmt: skip
        raise PayloadRejected(
            f"the sequence lasts {sequence.duration_ns} ns; {name} takes at most "
            f"{device.max_duration_ns}"
        )
    for number, operation in enumerate(sequence.operations):
        if operation["op"] == "pulse":
            _check_pulse(number, operation, sequence, device)


def check_size(atoms: int, device: RydbergDevice) -> None:
    """Raise `PayloadRejected` for more atoms than a device holds."""
    if device.max_atoms is not None and atoms > device.max_atoms:
        raise PayloadRejected(f"{atoms} atoms; {device.name} holds at most {device.max_atoms}")


def _check_places(sequence: RydbergSequence, device: RydbergDevice) -> None:
    places = [atom.place_um for atom in sequence.atoms]
    if len(places[0]) > device.dimensions:
        raise PayloadRejected(f"atoms in three dimensions; {device.name} has two")
    gap, pair = _closest(places)
    if gap < device.min_distance_um - _LEAST_GAP_UM:
        names = " and ".join(sequence.atoms[number].name for number in pair)
        raise PayloadRejected(
            f"atoms {names} are {gap:.3f} µm apart; {device.name} needs {device.min_distance_um:g}"
        )
    radius = max(math.hypot(*place) for place in places)
    if device.max_radius_um is not None and radius > device.max_radius_um + _LEAST_GAP_UM:
        raise PayloadRejected(
            f"an atom is {radius:.2f} µm from the centre; {device.name} reaches "
            f"{device.max_radius_um:g} µm"
        )
    if not device.requires_layout:
        return
    if sequence.traps is None:
        raise PayloadRejected(
            f"the register has no layout of traps, which {device.name} requires; use "
            "Register.with_automatic_layout() in Pulser"
        )
    if len(places) > device.max_layout_filling * sequence.traps:
        raise PayloadRejected(
            f"{len(places)} atoms in {sequence.traps} traps; {device.name} fills at most the part "
            f"{device.max_layout_filling:g} of them"
        )


def _closest(places: list[tuple[float, ...]]) -> tuple[float, tuple[int, int]]:
    """Return the smallest distance of two places, infinite for one place, and which they are."""
    import numpy as np

    if len(places) < 2:
        return math.inf, (0, 0)
    points = np.array(places)
    best, pair = math.inf, (0, 0)
    for number in range(len(points) - 1):
        gaps = np.linalg.norm(points[number + 1 :] - points[number], axis=1)
        least = int(gaps.argmin())
        if gaps[least] < best:
            best, pair = float(gaps[least]), (number, number + 1 + least)
    return best, pair


def _check_pulse(
    number: int, operation: Mapping[str, Any], sequence: RydbergSequence, device: RydbergDevice
) -> None:
    channel = device.channel(sequence.channels[operation["channel"]])
    assert channel is not None  # checked before
    duration = waveform_duration_ns(operation["amplitude"])
    if duration is not None:
        if duration < channel.min_duration_ns or duration % channel.clock_period_ns:
            raise PayloadRejected(
                f"pulse {number} lasts {duration} ns; {channel.id} of {device.name} takes multiples "
                f"of {channel.clock_period_ns} ns from {channel.min_duration_ns} ns"
            )
        if channel.max_duration_ns is not None and duration > channel.max_duration_ns:
            raise PayloadRejected(
                f"pulse {number} lasts {duration} ns; {channel.id} of {device.name} takes at most "
                f"{channel.max_duration_ns}"
            )
    for part, most in (
        ("amplitude", channel.max_amplitude),
        ("detuning", channel.max_detuning),
    ):
        samples = None if most is None else waveform_samples(operation[part])
        if samples is None or most is None:
            continue
        peak = float(abs(samples).max())
        if peak > most * (1 + 1e-9):
            raise PayloadRejected(
                f"pulse {number}: {part} of {peak:.3f} rad/µs; {channel.id} of {device.name} takes at "
                f"most {most:.3f}"
            )


def _atoms(stated: Any) -> tuple[Atom, ...]:
    if not isinstance(stated, list) or not 0 < len(stated) <= _MOST_ATOMS:
        raise PayloadRejected(f"the register is a list of 1 to {_MOST_ATOMS} atoms")
    if any(isinstance(one, dict) and "qid" in one for one in stated):
        raise PayloadRejected(
            "the register leaves the places of its atoms open; give them with Pulser's "
            "Sequence.build(qubits=...)"
        )
    atoms = tuple(map(_atom, stated))
    names = [atom.name for atom in atoms]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise PayloadRejected(f"two atoms are called {twice!r:.60}")
    if len({len(atom.place_um) for atom in atoms}) > 1:
        raise PayloadRejected("some atoms have two coordinates and some three")
    return atoms


def _atom(stated: Any) -> Atom:
    keys = set(stated) if isinstance(stated, dict) else set()
    if keys not in ({"name", "x", "y"}, {"name", "x", "y", "z"}):
        raise PayloadRejected(f"atom {stated!r:.60}; expected a name, x and y, and maybe z, in µm")
    name = stated["name"]
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
        raise PayloadRejected(f"an atom is called {name!r:.60}; give a text")
    place = [stated[axis] for axis in "xyz" if axis in stated]
    if not all(map(is_finite, place)):
        raise PayloadRejected(f"atom {name!r:.60} is at {place!r:.60}; give finite numbers in µm")
    return Atom(name=name, place_um=tuple(map(float, place)))


def _channels(stated: Any) -> Mapping[str, str]:
    if (
        not isinstance(stated, dict)
        or not stated
        or not all(isinstance(channel, str) and channel for channel in stated.values())
    ):
        raise PayloadRejected(
            "channels: give the device's channel under each of the sequence's names"
        )
    return dict(stated)


def _operations(
    stated: Any, channels: Mapping[str, str]
) -> tuple[Mapping[str, Any], ...]:  # fmt: skip
    if not isinstance(stated, list):
        raise PayloadRejected("operations: give a list")
    for number, operation in enumerate(stated):
        name: Any = operation.get("op") if isinstance(operation, dict) else None
        if not isinstance(name, str) or name not in _OPERATIONS:
            raise PayloadRejected(
                f"operation {number} is {name!r:.60}; expected one of: {', '.join(_OPERATIONS)}"
            )
        for key in _OPERATIONS[name]:
            named = operation.get(key)
            for channel in named if key == "channels" and isinstance(named, list) else [named]:
                if not isinstance(channel, str) or channel not in channels:
                    raise PayloadRejected(
                        f"operation {number} is on channel {channel!r:.60}; the sequence has: "
                        f"{', '.join(channels)}"
                    )
        if name == "pulse":
            _check_shape(number, operation)
    return tuple(stated)


def _check_shape(number: int, pulse: Mapping[str, Any]) -> None:
    if not {"amplitude", "detuning"} <= set(pulse):
        raise PayloadRejected(f"pulse {number} lacks its amplitude or its detuning")
    phases = [pulse.get("phase"), pulse.get("post_phase_shift", 0.0)]
    if not all(map(is_finite, phases)):
        raise PayloadRejected(f"pulse {number} has phases {phases!r:.60}; give finite numbers")
    amplitude, detuning = map(waveform_duration_ns, (pulse["amplitude"], pulse["detuning"]))
    if None not in (amplitude, detuning) and amplitude != detuning:
        raise PayloadRejected(
            f"pulse {number} has an amplitude of {amplitude} ns and a detuning of {detuning} ns"
        )


def _written_for(stated: Any) -> tuple[str, int | None]:
    if isinstance(stated, str):
        return stated, _HARDCODED_LEVELS.get(stated)
    if not isinstance(stated, dict) or not isinstance(stated.get("name"), str):
        raise PayloadRejected("the device has no name; give Pulser's description of a device")
    level = stated.get("rydberg_level")
    return stated["name"], level if type(level) is int else None


def _traps(stated: Any) -> int | None:
    if stated is None:
        return None
    places = stated.get("coordinates") if isinstance(stated, dict) else None
    if not isinstance(places, list) or not places:
        raise PayloadRejected("the layout has no coordinates of traps")
    return len(places)


def _duration_ns(
    operations: tuple[Mapping[str, Any], ...], channels: Mapping[str, str]
) -> int | None:
    """Return how long the longest channel is at work; None where Pulser alone can compute it.

    Raises `PayloadRejected` for more than samples of it may take, also if only a part is known.
    """
    ends, is_known = dict.fromkeys(channels, 0), True
    for operation in operations:
        lasts = _lasts_ns(operation)
        if lasts is None:
            is_known = False
            continue
        ends[operation["channel"]] += lasts
        if ends[operation["channel"]] > LONGEST_NS:
            raise PayloadRejected(
                f"channel {operation['channel']!r:.60} is at work for more than {LONGEST_NS} ns; "
                "give a shorter sequence"
            )
    return max(ends.values()) if is_known else None


def _lasts_ns(operation: Mapping[str, Any]) -> int | None:
    match operation["op"]:
        case "pulse":
            return waveform_duration_ns(operation["amplitude"])
        case "delay":
            time: Any = operation.get("time")
            if not is_finite(time) or time < 0:
                raise PayloadRejected(f"a delay of {time!r:.60}; give nanoseconds from 0")
            return int(time)
    return None


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number in JSON")
