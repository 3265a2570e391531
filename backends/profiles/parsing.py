"""The content of a profile file, checked and made a `Profile`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, cast, get_args

from backends.api import QualityWindow
from backends.error_rates import Coherence, depolarising_parameter
from backends.gates import MOVE
from backends.metering import FORMULAS, Metering
from backends.meterings import formula_class, formula_names
from backends.plugins import PluginUnusable
from backends.profiles.coupling import read_coupling
from backends.profiles.profile import (
    GATE_QUBITS,
    Limits,
    NativeGate,
    PrecisionRule,
    Profile,
    Readout,
)
from backends.profiles.reading import ProfileError, TomlTable
from backends.timing import TimingModel

__all__ = ["parse_profile"]

_PAYLOADS = ("sampler", "estimator")
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d")


def parse_profile(content: Mapping[str, Any], *, where: str, sources: Mapping[str, str]) -> Profile:
    """Check everything in a file and return the profile. Raises `ProfileError`."""
    top = TomlTable(content, where=where)
    top.raw("sources", {})
    device = top.table("device")
    num_qubits = device.whole("qubits")
    coupling, resonator = read_coupling(device, num_qubits)
    limits = top.table("limits", {})
    coherence, resonator_coherence, idle_relaxation = _coherence(top)
    profile = Profile(
        name=top.text("name"),
        title=top.text("title"),
        num_qubits=num_qubits,
        unusable_qubits=_unusable(device, num_qubits),
        coupling=coupling,
        resonator=resonator,
        gates=_gates(top.table("gates")),
        coherence=coherence,
        resonator_coherence=resonator_coherence,
        idle_relaxation=idle_relaxation,
        readout=_readout(top.table("readout")),
        mid_circuit_measurement=device.flag("mid_circuit_measurement", default=True),
        site_transpiles=device.flag("site_transpiles", default=False),
        payloads=_payloads(limits),
        precision=cast(
            PrecisionRule, limits.choice("precision", get_args(PrecisionRule), "sampled")
        ),
        coalesces=limits.flag("coalesces", default=False),
        limits=_limits(limits),
        quality_windows=_windows(top),
        timing=_timing(top.table("timing", {})),
        metering=_metering(top.table("metering", {})),
        taken_at=_taken_at(top.table("calibration")),
        sources=dict(sources),
    )
    for table in (device, top):
        table.close()
    _check_gates(profile, where)
    return profile


def _unusable(device: TomlTable, num_qubits: int) -> tuple[int, ...]:
    listed = device.items("unusable_qubits", [])
    for qubit in listed:
        if type(qubit) is not int or not 0 <= qubit < num_qubits:
            raise device.fail(
                "unusable_qubits", f"{qubit!r}; expected indices from 0 to {num_qubits - 1}"
            )
    return tuple(sorted(set(listed)))


def _gates(table: TomlTable) -> tuple[NativeGate, ...]:
    gates = []
    for name in table.keys():  # noqa: SIM118  # a Table is no mapping
        if name not in GATE_QUBITS:
            raise table.fail(name, f"no such gate; there are {', '.join(sorted(GATE_QUBITS))}")
        entry = table.table(name)
        gates.append(
            NativeGate(
                name=name,
                duration_s=entry.number("duration_s"),
                error=entry.number("error", top=1.0),
            )
        )
        entry.close()
    return tuple(gates)


def _coherence(top: TomlTable) -> tuple[Coherence | None, Coherence | None, bool]:
    """Return the coherence of qubits and of the resonator, and whether idle ones relax."""
    if "coherence" not in top:
        return None, None, False
    table = top.table("coherence")
    found: list[Coherence | None] = []
    for prefix in ("", "resonator_"):
        if prefix and f"{prefix}t1_s" not in table:
            found.append(None)
            continue
        t1_s, t2_s = table.number(f"{prefix}t1_s"), table.number(f"{prefix}t2_s")
        if t1_s == 0 or not 0 < t2_s <= 2 * t1_s:
            raise table.fail(f"{prefix}t2_s", f"{t2_s:g}; expected 0 < T2 ≤ 2·T1 = {2 * t1_s:g}")
        found.append(Coherence(t1_s=t1_s, t2_s=t2_s))
    idle = table.flag("idle_relaxation", default=False)
    table.close()
    return found[0], found[1], idle


def _readout(table: TomlTable) -> Readout:
    readout = Readout(
        zero_as_one=table.number("zero_as_one", top=1.0),
        one_as_zero=table.number("one_as_zero", top=1.0),
        duration_s=table.number("duration_s", 0.0),
    )
    table.close()
    return readout


def _payloads(limits: TomlTable) -> frozenset[str]:
    kinds = limits.items("payloads", ["sampler"])
    if not kinds or any(kind not in _PAYLOADS for kind in kinds):
        raise limits.fail("payloads", f"{kinds!r}; expected some of {', '.join(_PAYLOADS)}")
    return frozenset(kinds)


def _limits(table: TomlTable) -> Limits:
    lifetime = table.raw("credential_lifetime_s", None)
    limits = Limits(
        shots_per_task=table.whole("shots_per_task", None),
        circuits_per_task=table.whole("circuits_per_task", None),
        concurrent_tasks=table.whole("concurrent_tasks", 1),
        credential_lifetime_s=None if lifetime is None else table.number("credential_lifetime_s"),
    )
    table.close()
    return limits


def _windows(top: TomlTable) -> tuple[QualityWindow, ...]:
    windows = []
    for content in top.items("quality_windows", []):
        hours = content if isinstance(content, dict) else {}
        start, end = hours.get("start"), hours.get("end")
        if set(hours) != {"start", "end"} or not all(
            isinstance(hour, str) and _CLOCK.fullmatch(hour) for hour in (start, end)
        ):
            raise top.fail(
                "quality_windows", f'{content!r}; expected start = "HH:MM" and end = "HH:MM", UTC'
            )
        windows.append(QualityWindow(start=str(start), end=str(end)))
    return tuple(windows)


def _timing(table: TomlTable) -> TimingModel:
    names = ("init_s", "qubit_init_s", "shot_s", "qubit_shot_s", "layer_shot_s")
    model = TimingModel(
        **{name: table.number(name, 0.0) for name in names},
        decay=table.number("decay", 1.0),
        decay_cap=table.number("decay_cap", 1.0),
    )
    table.close()
    return model


def _metering(table: TomlTable) -> Metering:
    kind = table.choice("kind", formula_names(), "qpu-seconds")
    try:
        formula = formula_class(kind)
    except PluginUnusable as error:
        raise table.fail("kind", str(error)) from error
    # A parameter of another formula of ours is no mistake: earlier versions took them all.
    for other in FORMULAS.values():
        for field in fields(other):  # type: ignore[arg-type]
            table.number(field.name, 0.0)
    metering = Metering(
        formula=formula(
            **{f.name: table.number(f.name, _default(f)) for f in fields(formula)}  # type: ignore[arg-type]
        ),
        unit=table.text("unit", "qpu-s"),
        bills_failed=table.flag("bills_failed", False),
        bills_cancelled=table.flag("bills_cancelled", False),
    )
    table.close()
    return metering


def _default(parameter: Field[Any]) -> Any:
    return ... if parameter.default is MISSING else parameter.default


def _taken_at(table: TomlTable) -> Any:
    moment = table.moment("taken_at")
    table.close()
    return moment


def _check_gates(profile: Profile, where: str) -> None:
    """Raise if the gates cannot compute, do not fit the coupling, or err too little."""
    names = {gate.name for gate in profile.gates}
    if not any(gate.num_qubits == 1 for gate in profile.gates):
        raise ProfileError(f"{where}: gates: none acts on one qubit")
    if (MOVE in names) != (profile.resonator is not None):
        raise ProfileError(
            f'{where}: gates: coupling = "star" and the gate {MOVE!r} need each other'
        )
    if profile.resonator is not None and profile.site_transpiles:
        raise ProfileError(
            f"{where}: device.site_transpiles: a star's MOVEs are put in before it is sent to; "
            "write false"
        )
    if profile.resonator is not None and "cz" not in names:
        raise ProfileError(f"{where}: gates: a star needs the gate 'cz'")
    for gate in profile.gates:
        if gate.error == gate.duration_s == 0:
            continue  # a change of frame, not a pulse
        try:
            depolarising_parameter(gate.error, gate.duration_s, profile.gate_coherences(gate))
        except ValueError as error:
            raise ProfileError(f"{where}: gates.{gate.name}: {error}") from error
