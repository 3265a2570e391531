"""Sequences in Pulser's abstract representation, written without Pulser (pure)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.analog.device import RydbergChannel, RydbergDevice
from backends.analog.sequence import check_sequence, check_size, parse_sequence
from backends.analog.waveforms import Waveform
from backends.errors import PayloadRejected

__all__ = ["RydbergPulse", "rydberg_sequence"]

_CHANNEL = "rydberg"
_DIGITS = 6  # of µm, as Pulser writes layouts
_TRAP_STEP = 0.25  # of the least distance, at which places of further traps are looked for
_TRAPS_REACH_UM = 200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RydbergPulse:
    """A pulse on all atoms.

    amplitude: Rabi frequency Ω in rad/µs, not below 0. detuning: δ in rad/µs, which lasts as long.
    phase: φ in radians.
    """

    amplitude: Waveform
    detuning: Waveform
    phase: float = 0.0


def rydberg_sequence(
    atoms: Mapping[str, Sequence[float]] | Sequence[Sequence[float]],
    pulses: Sequence[RydbergPulse],
    device: RydbergDevice,
) -> str:
    """Write a sequence that drives all atoms between ground and Rydberg state, and measures them.

    Args:
        atoms: Coordinates (x, y) in µm of each atom, by name or in order; the latter are called q0,
            q1, ... The register is moved so that its centre is the device's.
        pulses: One after the other. Where the device takes only multiples of some nanoseconds, their
            durations must be such.
        device: For which it is written, as ``qpu.target.rydberg`` is.

    Returns:
        JSON, as Pulser's ``Sequence.to_abstract_repr`` returns it.

    Raises:
        PayloadRejected: The device can never run it, or has no channel that drives all atoms.
    """
    named = dict(atoms) if isinstance(atoms, Mapping) else {f"q{n}": p for n, p in enumerate(atoms)}
    if not named or not pulses:
        raise PayloadRejected(
            f"{len(named)} atoms and {len(pulses)} pulses; give at least one each"
        )
    check_size(len(named), device)
    channel = _global_channel(device)
    places = _centred([_place(name, given) for name, given in named.items()])
    stated: dict[str, Any] = {
        "version": "1",
        "name": "hpcqc",
        "register": [
            {"name": name, "x": x, "y": y} for name, (x, y) in zip(named, places, strict=True)
        ],
        "channels": {_CHANNEL: channel.id},
        "variables": {},
        "operations": [_operation(pulse) for pulse in pulses],
        "measurement": channel.basis,
        "device": json.loads(device.specification),
    }
    if device.requires_layout:
        stated["layout"] = {"coordinates": [list(p) for p in sorted(_traps(places, device))]}
    text = json.dumps(stated, separators=(",", ":"))
    check_sequence(parse_sequence(text.encode()), device)
    return text


def _global_channel(device: RydbergDevice) -> RydbergChannel:
    for channel in device.channels:
        if channel.basis == "ground-rydberg" and channel.addressing == "Global":
            return channel
    raise PayloadRejected(
        f"{device.name} has no global channel to the Rydberg state; its channels are: "
        f"{', '.join(channel.id for channel in device.channels) or 'none'}"
    )


def _place(name: str, given: Sequence[float]) -> tuple[float, float]:
    place = tuple(float(part) for part in given)
    if len(place) != 2 or not all(map(math.isfinite, place)):
        raise PayloadRejected(f"atom {name!r:.60} is at {place}; give x and y in µm")
    return place


def _centred(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Move places so that the middle of their box is the origin."""
    middles = [(min(axis) + max(axis)) / 2 for axis in zip(*places, strict=True)]
    return [(round(x - middles[0], _DIGITS), round(y - middles[1], _DIGITS)) for x, y in places]


def _operation(pulse: RydbergPulse) -> dict[str, Any]:
    return {
        "op": "pulse",
        "channel": _CHANNEL,
        "protocol": "min-delay",
        "amplitude": dict(pulse.amplitude.representation),
        "detuning": dict(pulse.detuning.representation),
        "phase": float(pulse.phase),
        "post_phase_shift": 0.0,
    }


def _traps(
    places: Sequence[tuple[float, float]], device: RydbergDevice
) -> list[tuple[float, float]]:
    """Return traps for the atoms, and so many more that the device fills few enough of them."""
    wanted = max(device.min_traps, math.ceil(len(places) / device.max_layout_filling))
    traps = list(places)
    for place in _spiral(device):
        if len(traps) >= wanted:
            break
        if all(math.dist(place, trap) >= device.min_distance_um for trap in traps):
            traps.append(place)
    if len(traps) < wanted:
        raise PayloadRejected(
            f"{len(places)} atoms need a layout of {wanted} traps, and {len(traps)} fit into the "
            f"field of {device.name}; place the atoms closer, or fewer"
        )
    return traps


def _spiral(device: RydbergDevice) -> Iterator[tuple[float, float]]:
    """Yield the points of a fine grid within the device's field, from its centre outwards."""
    step = max(device.min_distance_um, 1.0) * _TRAP_STEP
    radius = min(device.max_radius_um or _TRAPS_REACH_UM, _TRAPS_REACH_UM)
    most = math.floor(radius / step)
    grid = [
        (round(x * step, _DIGITS), round(y * step, _DIGITS))
        for x in range(-most, most + 1)
        for y in range(-most, most + 1)
    ]
    yield from sorted(
        (place for place in grid if math.hypot(*place) <= radius),
        key=lambda place: (math.hypot(*place), place),
    )
