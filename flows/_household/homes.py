"""Homes with a battery: CityLearn's folder of the 2022 challenge, or generated ones."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows._inputs import InputError, read_lines

__all__ = ["Battery", "Homes", "generated", "read_homes"]

_Values = NDArray[np.float64]

_LEAST_HOURS, _MOST_HOURS = 14 * 24, 10 * 8784
_MOST_HOMES = 200
_STEP_S = 3600
_HOUR, _LOAD, _SOLAR = "hour", "non_shiftable_load", "solar_generation"
_DAYLIGHT_SAVING = "daylight_savings_status"
# Of an hour: what no home takes in kWh, and no sun gives in W for each kW of modules.
_MOST_LOAD_KWH, _MOST_SOLAR_W = 1000.0, 2000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Battery:
    """Capacity in kWh, power in kW of charging and discharging, share of energy that comes back."""

    capacity: float = 6.4
    power: float = 5.0
    round_trip: float = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Homes:
    """Homes with the same battery and tariff, hour by hour.

    names: (homes,). net: load less solar power (homes, hours) in kWh; prices: of a kWh (hours,);
    hours: of the day, 0 to 23 (hours,).
    """

    title: str
    names: tuple[str, ...]
    net: _Values
    prices: _Values
    hours: NDArray[np.int64]
    battery: Battery

    def __len__(self) -> int:
        return len(self.names)

    def part(self, chosen: Sequence[int]) -> Homes:
        """Return some of the homes."""
        return Homes(
            title=self.title,
            names=tuple(self.names[index] for index in chosen),
            net=self.net[list(chosen)],
            prices=self.prices,
            hours=self.hours,
            battery=self.battery,
        )

    def during(self, begin: int, end: int) -> Homes:
        """Return the hours from ``begin`` up to ``end``."""
        return Homes(
            title=self.title,
            names=self.names,
            net=self.net[:, begin:end],
            prices=self.prices[begin:end],
            hours=self.hours[begin:end],
            battery=self.battery,
        )


def read_homes(folder: str) -> Homes:
    """Read a folder in the layout of CityLearn's challenge of 2022. Raises `InputError`."""
    path = Path(folder).expanduser()
    schema_file = path / "schema.json"
    if not schema_file.is_file():
        raise InputError(
            f"{schema_file}: no such file; expected a folder of a CityLearn challenge, with "
            "schema.json, a CSV file for each home and one of prices"
        )
    buildings = _buildings(schema_file)
    found, batteries, prices_of, hours = [], set(), set(), None
    names = []
    for name in sorted(buildings, key=_natural):
        told = buildings[name]
        file = path / _text(told, "energy_simulation", schema_file, name)
        if not file.is_file():  # a part of the homes may be elsewhere
            continue
        columns = _energies(file)
        if hours is None:
            hours = columns[_HOUR]
        _check_same_hours(file, columns[_HOUR], hours)
        # Solar power is per kW of the modules, in W.
        peak_kw = _attribute(told, "pv", "nominal_power", schema_file, name, 0.0)
        found.append(columns[_LOAD] - columns[_SOLAR] * peak_kw / 1000)
        batteries.add(
            Battery(
                capacity=_attribute(
                    told, "electrical_storage", "capacity", schema_file, name, None
                ),
                power=_attribute(
                    told, "electrical_storage", "nominal_power", schema_file, name, None
                ),
                round_trip=_attribute(
                    told, "electrical_storage", "efficiency", schema_file, name, 1.0
                ),
            )
        )
        prices_of.add(_text(told, "pricing", schema_file, name))
        names.append(name)
    if hours is None or len(names) < 2:
        raise InputError(
            f"{path}: {len(names)} of the {len(buildings)} homes in schema.json; expected two or more"
        )
    if len(batteries) != 1 or len(prices_of) != 1:
        raise InputError(
            f"{schema_file}: {len(batteries)} kinds of batteries and {len(prices_of)} tariffs; expected "
            "the same for all homes: leave the others out of the schema"
        )
    prices = _columns(path / prices_of.pop(), ("electricity_pricing",))["electricity_pricing"]
    if len(prices) != len(hours):
        raise InputError(
            f"{path}: {len(prices)} prices for {len(hours)} hours; expected one for each"
        )
    return _checked(path, tuple(names), np.array(found), prices, hours, batteries.pop())


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _buildings(schema_file: Path) -> Mapping[str, Mapping[str, Any]]:
    text = "\n".join(line.text for line in read_lines(schema_file))
    try:
        schema = json.loads(text)
        buildings = schema["buildings"]
        named = {str(name): dict(told) for name, told in buildings.items()}
        named = {name: told for name, told in named.items() if told.get("include", True)}
        step = schema.get("seconds_per_time_step", _STEP_S)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{schema_file}: no table of buildings ({error!r:.100}); expected the schema of a "
            "CityLearn challenge"
        ) from None
    if step != _STEP_S:
        raise InputError(
            f"{schema_file}: seconds_per_time_step = {step!r:.40}; expected {_STEP_S}, an hour: add up the "
            "energies of each hour, and take the mean of its powers and prices"
        )
    if len(named) > _MOST_HOMES:
        raise InputError(f"{schema_file}: {len(named)} homes; expected at most {_MOST_HOMES}")
    return named


def _text(told: Mapping[str, Any], key: str, file: Path, name: str) -> str:
    value = told.get(key)
    # A name of a file in the folder, nothing outside it.
    if not isinstance(value, str) or Path(value).name != value:
        raise InputError(f"{file}, {name}: {key} = {value!r:.80}; expected the name of a CSV file")
    return value


def _attribute(
    told: Mapping[str, Any], part: str, key: str, file: Path, name: str, default: float | None
) -> float:
    try:
        value = float(told[part]["attributes"][key])
    except (KeyError, TypeError, ValueError):
        if default is not None:
            return default
        raise InputError(
            f"{file}, {name}: no number {part}.attributes.{key}; expected one"
        ) from None
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"{file}, {name}: {part}.attributes.{key} = {value}; expected at least 0")
    return value


def _energies(file: Path) -> dict[str, _Values]:
    """Read the hours of a home, one after another, and its energies in the units of CityLearn."""
    found = _columns(file, (_HOUR, _LOAD, _SOLAR), (_DAYLIGHT_SAVING,))
    for name, most, unit in ((_LOAD, _MOST_LOAD_KWH, "kWh"), (_SOLAR, _MOST_SOLAR_W, "W per kW")):
        for row in np.flatnonzero((found[name] < 0) | (found[name] > most))[:1]:
            raise InputError(
                f"{file}, hour {row + 1}: {name} = {found[name][row]:g}; expected 0 to {most:g} {unit} in "
                "an hour, the unit of CityLearn"
            )
    steps = np.diff(found[_HOUR]) % 24
    # Where clocks are set, an hour is left out, or comes twice.
    saving = np.diff(found.get(_DAYLIGHT_SAVING, np.zeros(len(steps) + 1)))
    for row in np.flatnonzero((steps != 1) & ((saving == 0) | (steps > 2)))[:1]:
        raise InputError(
            f"{file}: hour {found[_HOUR][row + 1]:g} after hour {found[_HOUR][row]:g}, in row {row + 2}; "
            "expected each hour once: fill in missing ones, and give an hourly table of other steps"
        )
    return found


def _check_same_hours(file: Path, hours: _Values, expected: _Values) -> None:
    if len(hours) != len(expected):
        raise InputError(
            f"{file}: {len(hours)} hours; expected {len(expected)}, as of the other homes"
        )
    for row in np.flatnonzero(hours != expected)[:1]:
        raise InputError(
            f"{file}: hour {hours[row]:g} in row {row + 1}; expected {expected[row]:g}, as of the other "
            "homes: bring them to the same clock"
        )


def _columns(file: Path, wanted: Sequence[str], optional: Sequence[str] = ()) -> dict[str, _Values]:
    """Read columns of a CSV file as finite numbers."""
    lines = read_lines(file)
    if len(lines) - 1 > _MOST_HOURS:
        raise InputError(f"{file}: {len(lines) - 1} hours; expected at most {_MOST_HOURS}")
    header = [name.strip() for name in next(csv.reader([lines[0].text]))]
    missing = [name for name in wanted if name not in header]
    if missing:
        raise lines[0].error(
            f"the names of CityLearn, separated by commas, among them {', '.join(missing)}"
        )
    places = {name: header.index(name) for name in (*wanted, *optional) if name in header}
    found: dict[str, list[float]] = {name: [] for name in places}
    for line in lines[1:]:
        if not line.text.strip():
            continue
        cells = next(csv.reader([line.text]))
        if len(cells) < len(header):
            raise line.error(f"{len(header)} columns, as the first line names them")
        for name, place in places.items():
            found[name].append(line.real(cells[place].strip(), f"a number as {name}"))
    return {name: np.array(values) for name, values in found.items()}


def _checked(
    path: Path,
    names: tuple[str, ...],
    net: _Values,
    prices: _Values,
    hours: _Values,
    battery: Battery,
) -> Homes:
    if len(hours) < _LEAST_HOURS:
        raise InputError(f"{path}: {len(hours)} hours; expected at least {_LEAST_HOURS}, two weeks")
    whole = hours.astype(np.int64)
    if (whole != hours).any() or whole.min() < 0 or whole.max() > 24:
        raise InputError(f"{path}: hours from {hours.min():g} to {hours.max():g}; expected 1 to 24")
    if prices.min() < 0 or prices.max() <= 0:
        raise InputError(
            f"{path}: prices from {prices.min():g} to {prices.max():g}; expected above 0"
        )
    if not (0 < battery.round_trip <= 1 and battery.capacity > 0 and battery.power > 0):
        raise InputError(f"{path}: {battery}; expected a battery that stores something")
    return Homes(
        title=f"{len(names)} homes ({path.resolve().name})",
        names=names,
        net=net,
        prices=prices,
        hours=whole % 24,
        battery=battery,
    )


def generated(count: int, days: int, seed: int) -> Homes:
    """Return homes of a warm place with solar modules, under a tariff with a dear evening."""
    hours = np.arange(24 * days) % 24
    day = np.arange(24 * days) // 24
    rng = np.random.default_rng(seed)
    season = np.cos(2 * np.pi * (day - 172) / 365)
    # The sun of a day, longer and stronger in summer, under clouds that all homes share.
    half = 6 + 1.2 * season
    sun = np.clip(np.cos(np.pi / 2 * (hours - 12.5) / half), 0, None) * (
        np.abs(hours - 12.5) < half
    )
    clouds = 1 - 0.75 * rng.beta(0.8, 2.4, days)[day]
    weekend = day % 7 >= 5
    net = []
    for _ in range(count):
        base, morning, evening = rng.uniform([0.3, 0.3, 0.8], [0.6, 0.9, 1.8])
        peaks = rng.uniform([6.5, 18.0], [8.5, 20.5])
        shape = base + morning * np.exp(-(((hours - peaks[0]) / 1.3) ** 2)) * (1 - 0.4 * weekend)
        shape = shape + evening * np.exp(-(((hours - peaks[1]) / 1.8) ** 2))
        cooling = rng.uniform(0.2, 0.9) * np.clip(season, 0, None) * sun
        habit = np.repeat(rng.lognormal(0, 0.25, days), 24)
        noise = rng.lognormal(0, 0.45, len(hours))
        solar = rng.uniform(2.0, 4.5) * 0.8 * sun * clouds * rng.lognormal(0, 0.05, len(hours))
        net.append((shape * habit + cooling) * noise - solar)
    dear = (hours >= 16) & (hours < 21)
    prices = np.where(dear, np.where(weekend, 0.40, 0.54), np.where(hours < 7, 0.21, 0.26))
    return Homes(
        title=f"{count} generated homes",
        names=tuple(f"home {index + 1}" for index in range(count)),
        net=np.array(net),
        prices=prices,
        hours=hours,
        battery=Battery(),
    )
