"""The simulator that every installation has: QPUs without a site file, and dry runs of others."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

__all__ = ["SIMULATOR", "built_in_qpus", "shipped_profiles", "simulated_device", "stand_in"]

# Name of the backend, and of its QPU on a machine without a site file.
SIMULATOR = "aer"


def shipped_profiles() -> tuple[str, ...]:
    """Return the names of the device profiles that come with hpcqc, sorted."""
    profiles = files("backends").joinpath("profiles")
    if not profiles.is_dir():
        return ()
    names = (entry.name for entry in profiles.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def built_in_qpus() -> dict[str, dict[str, Any]]:
    """Return the tables of a machine without a site file: ideal, then one per shipped profile."""
    devices = {
        name: {"backend": SIMULATOR, "profile": name, "time_scale": 0}
        for name in shipped_profiles()
    }
    return {SIMULATOR: {"backend": SIMULATOR}, **devices}


def simulated_device(profile: str) -> tuple[str, dict[str, Any]]:
    """Return backend and options of a simulated QPU with a device profile."""
    return SIMULATOR, {"profile": profile}


def stand_in(
    backend: str, options: Mapping[str, Any], *, noisy: bool = False
) -> tuple[str, dict[str, Any]]:
    """Return the simulator for a dry run: the QPU's profile, a stopped clock, and no secrets.

    noisy: whether the profile's errors are simulated, too.
    """
    taken = {key: value for key, value in options.items() if key != "time_scale"}
    if backend != SIMULATOR:
        taken = {key: value for key, value in taken.items() if key == "profile"}
    if taken.get("profile") is not None and not noisy:
        taken["noiseless"] = True
    return SIMULATOR, taken
