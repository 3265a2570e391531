"""What a neutral-atom device allows, from its description in Pulser's JSON (pure)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "C6_BY_LEVEL",
    "SHOT_S",
    "DeviceError",
    "RydbergChannel",
    "RydbergDevice",
    "rydberg_device",
]

# Loading atoms, checking them and imaging them take this long in each run of today's machines,
# however short the sequence is.
SHOT_S = 0.2

# C6/ħ of two rubidium-87 atoms in the same nS1/2 state in rad/µs·µm⁶, by n, as computed with the
# ARC calculator (arXiv:1612.05529) and used by Pulser.
C6_BY_LEVEL: Mapping[int, float] = {
    50: 96120.72,
    51: 122241.6,
    52: 154693.02,
    53: 194740.36,
    54: 243973.91,
    55: 304495.01,
    56: 378305.98,
    57: 468027.05,
    58: 576714.85,
    59: 707911.38,
    60: 865723.02,
    61: 1054903.11,
    62: 1281042.11,
    63: 1550531.15,
    64: 1870621.31,
    65: 2249728.57,
    66: 2697498.69,
    67: 3224987.51,
    68: 3844734.37,
    69: 4571053.32,
    70: 5420158.53,
    71: 6410399.4,
    72: 7562637.31,
    73: 8900342.14,
    74: 10449989.62,
    75: 12241414.53,
    76: 14308028.03,
    77: 16687329.94,
    78: 19421333.62,
    79: 22557029.94,
    80: 26146720.74,
    81: 30248886.65,
    82: 34928448.69,
    83: 40257623.67,
    84: 46316557.88,
    85: 53194043.52,
    86: 60988354.64,
    87: 69808179.15,
    88: 79773468.88,
    89: 91016513.07,
    90: 103677784.57,
    91: 117933293.96,
    92: 133943541.9,
    93: 151907135.94,
    94: 172036137.34,
    95: 194562889.89,
    96: 219741590.56,
    97: 247850178.91,
    98: 279192193.77,
    99: 314098829.39,
    100: 352931119.11,
}


class DeviceError(ValueError):
    """A description is not one of a neutral-atom device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RydbergChannel:
    """A laser that sequences may use. None: no limit.

    id: as sequences name it. basis: "ground-rydberg", "digital" or "XY". addressing: "Global" or
    "Local". max_amplitude, max_detuning: in rad/µs, the latter of either sign. clock_period_ns: of
    which each duration is a multiple. mod_bandwidth_mhz: of the modulators; without one, amplitudes
    change at once.
    """

    id: str
    basis: str
    addressing: str
    max_amplitude: float | None = None
    max_detuning: float | None = None
    clock_period_ns: int = 1
    min_duration_ns: int = 1
    max_duration_ns: int | None = None
    mod_bandwidth_mhz: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RydbergDevice:
    """A device of neutral atoms.

    rydberg_level: principal quantum number of the excited state. max_atoms: atoms of a register.
    min_distance_um: of two atoms. max_radius_um: of an atom from the centre. max_duration_ns: of a
    whole sequence. requires_layout: whether atoms are taken from traps that the sequence states;
    max_layout_filling: at most so large a part of them. specification: the description itself.
    """

    name: str
    rydberg_level: int
    dimensions: int = 2
    max_atoms: int | None = None
    min_distance_um: float = 0.0
    max_radius_um: float | None = None
    max_duration_ns: int | None = None
    max_runs: int | None = None
    requires_layout: bool = False
    max_layout_filling: float = 0.5
    min_traps: int = 1
    channels: tuple[RydbergChannel, ...] = ()
    specification: str = field(default="", repr=False)

    @property
    def c6(self) -> float:
        """Interaction coefficient C6/ħ in rad/µs·µm⁶."""
        return C6_BY_LEVEL[self.rydberg_level]

    def channel(self, name: str) -> RydbergChannel | None:
        """Return the channel of an id."""
        return next((one for one in self.channels if one.id == name), None)

    def blockade_radius_um(self, amplitude: float) -> float:
        """Return the distance at which the interaction equals a Rabi frequency.

        Args:
            amplitude: Rabi frequency Ω in rad/µs.

        Returns:
            (C6/Ω)^(1/6) in µm; closer pairs are not both excited by such a drive.

        Raises:
            ValueError: The amplitude is not above 0.
        """
        if not 0 < amplitude < math.inf:
            raise ValueError(f"amplitude {amplitude!r}; give a Rabi frequency above 0 in rad/µs")
        return float((self.c6 / amplitude) ** (1 / 6))


def rydberg_device(specification: str) -> RydbergDevice:
    """Read a device's description, JSON as Pulser's ``to_abstract_repr`` and ``/qpu/specs`` give it.

    Raises `DeviceError` with the reason.
    """
    try:
        stated = json.loads(specification)
        return _device(stated, specification)
    except DeviceError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise DeviceError(
            f"not a device in Pulser's JSON: {type(error).__name__}: {error}"
        ) from error


def _device(stated: Mapping[str, Any], specification: str) -> RydbergDevice:
    if str(stated.get("version")) != "1":
        raise DeviceError(f"device of version {stated.get('version')!r}; only version '1' is known")
    level = int(stated["rydberg_level"])
    if level not in C6_BY_LEVEL:
        raise DeviceError(
            f"rydberg_level {level}; expected {min(C6_BY_LEVEL)} to {max(C6_BY_LEVEL)}"
        )
    virtual = bool(stated.get("is_virtual", False))
    return RydbergDevice(
        name=str(stated["name"]),
        rydberg_level=level,
        dimensions=int(stated["dimensions"]),
        max_atoms=_whole(stated.get("max_atom_num")),
        min_distance_um=float(stated["min_atom_distance"] or 0.0),
        max_radius_um=_number(stated.get("max_radial_distance")),
        max_duration_ns=_whole(stated.get("max_sequence_duration")),
        max_runs=_whole(stated.get("max_runs")),
        requires_layout=bool(stated.get("requires_layout", not virtual)),
        max_layout_filling=float(stated.get("max_layout_filling") or 0.5),
        min_traps=int(stated.get("min_layout_traps") or 1),
        channels=tuple(_channel(one) for one in stated["channels"]),
        specification=specification,
    )


def _channel(stated: Mapping[str, Any]) -> RydbergChannel:
    return RydbergChannel(
        id=str(stated["id"]),
        basis=str(stated["basis"]),
        addressing=str(stated["addressing"]),
        max_amplitude=_number(stated.get("max_amp")),
        max_detuning=_number(stated.get("max_abs_detuning")),
        clock_period_ns=int(stated.get("clock_period") or 1),
        min_duration_ns=int(stated.get("min_duration") or 1),
        max_duration_ns=_whole(stated.get("max_duration")),
        mod_bandwidth_mhz=_number(stated.get("mod_bandwidth")),
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)
