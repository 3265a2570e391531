"""Descriptions of devices that hpcqc brings, and those that others bring in files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from backends.analog.device import DeviceError, RydbergDevice, rydberg_device

__all__ = ["DEVICE_NAMES", "shipped_device", "stated_device"]

_MHZ = 2 * math.pi


def _channel(**limits: Any) -> dict[str, Any]:
    return {
        "id": "rydberg_global",
        "basis": "ground-rydberg",
        "addressing": "Global",
        "min_retarget_interval": None,
        "fixed_retarget_t": None,
        "max_targets": None,
        "mod_bandwidth": None,
        "eom_config": None,
        **limits,
    }


_SPECIFICATIONS: Mapping[str, Mapping[str, Any]] = {
    # The limits that Pulser 1.9 states for its AnalogDevice, a model of Pasqal's machines.
    "analog": {
        "name": "analog",
        "dimensions": 2,
        "rydberg_level": 60,
        "min_atom_distance": 5,
        "max_atom_num": 80,
        "max_radial_distance": 38,
        "supports_slm_mask": False,
        "max_layout_filling": 0.5,
        "max_sequence_duration": 6000,
        "max_runs": 2000,
        "reusable_channels": False,
        "interaction_coeff_xy": None,
        "pre_calibrated_layouts": [],
        "version": "1",
        "channels": [
            _channel(
                max_abs_detuning=20 * _MHZ,
                max_amp=2 * _MHZ,
                clock_period=4,
                min_duration=16,
                max_duration=100_000_000,
                mod_bandwidth=8,
            )
        ],
        "is_virtual": False,
    },
    # No limits: for what no machine can do yet.
    "free": {
        "name": "free",
        "dimensions": 2,
        "rydberg_level": 70,
        "min_atom_distance": 0.0,
        "max_atom_num": None,
        "max_radial_distance": None,
        "supports_slm_mask": False,
        "max_layout_filling": 0.5,
        "reusable_channels": True,
        "interaction_coeff_xy": None,
        "version": "1",
        "channels": [
            _channel(
                max_abs_detuning=None,
                max_amp=None,
                clock_period=1,
                min_duration=1,
                max_duration=None,
            )
        ],
        "is_virtual": True,
    },
}
DEVICE_NAMES = tuple(_SPECIFICATIONS)


@cache
def shipped_device(name: str) -> RydbergDevice:
    """Return a device that hpcqc brings. Raises ``KeyError``."""
    return rydberg_device(json.dumps(_SPECIFICATIONS[name]))


def stated_device(name: str) -> RydbergDevice:
    """Return the device of a name, or of a file with a description in Pulser's JSON.

    Raises `DeviceError`.
    """
    if name in _SPECIFICATIONS:
        return shipped_device(name)
    try:
        text = Path(name).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DeviceError(
            f"device {name!r:.200} is neither one of {', '.join(DEVICE_NAMES)} nor a readable file: "
            f"{error}"
        ) from error
    return rydberg_device(text)
