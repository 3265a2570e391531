"""The exact evolution of a few driven Rydberg atoms, nanosecond by nanosecond."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.analog.device import RydbergDevice
from backends.analog.sequence import RydbergSequence
from backends.analog.waveforms import waveform_samples
from backends.errors import PayloadRejected

__all__ = ["Drive", "drive_of", "evolution_steps", "interactions", "probabilities", "sampled"]

_STEP_US = 1e-3
# Largest phase of an interaction within a step; the error of a step grows with its third power.
_PHASE = 0.15
_MOST_STEPS_PER_NS = 200

_State = NDArray[np.complex128]
_Reals = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """A global drive: Ω and δ in rad/µs, and φ in radians, in each nanosecond."""

    amplitude: _Reals
    detuning: _Reals
    phase: _Reals


def drive_of(sequence: RydbergSequence, device: RydbergDevice) -> Drive:
    """Return the drive of a sequence on one global channel.

    Raises `PayloadRejected` for what Pulser alone can compute: several channels, single atoms, EOM,
    phases that change on a channel with a modulator.
    """
    if len(sequence.channels) != 1 or sequence.measurement != "ground-rydberg":
        raise PayloadRejected(
            "this emulator drives all atoms by one channel and measures ground-rydberg; use the "
            "backend 'pasqal' for other sequences"
        )
    channel = device.channel(next(iter(sequence.channels.values())))
    if channel is None or (channel.basis, channel.addressing) != ("ground-rydberg", "Global"):
        raise PayloadRejected(
            "this emulator knows the global channel to the Rydberg state alone; use the backend "
            "'pasqal' for others"
        )
    amplitudes: list[_Reals] = []
    detunings: list[_Reals] = []
    phases: list[_Reals] = []
    shift = 0.0
    for operation in sequence.operations:
        if operation["op"] == "delay":
            silence = np.zeros(int(operation["time"]))
            amplitudes.append(silence)
            detunings.append(silence)
            phases.append(silence + (phases[-1][-1] if phases and phases[-1].size else 0.0))
            continue
        if operation["op"] != "pulse":
            raise PayloadRejected(
                f"this emulator knows pulses and delays alone, not {operation['op']!r}; use the "
                "backend 'pasqal'"
            )
        amplitude, detuning = map(waveform_samples, (operation["amplitude"], operation["detuning"]))
        if amplitude is None or detuning is None:
            raise PayloadRejected(
                "a waveform whose duration Pulser computes; use the backend 'pasqal'"
            )
        amplitudes.append(amplitude)
        detunings.append(detuning)
        phases.append(np.full(len(amplitude), float(operation["phase"]) + shift))
        shift += float(operation.get("post_phase_shift", 0.0))
    drive = Drive(amplitude=_joined(amplitudes), detuning=_joined(detunings), phase=_joined(phases))
    if (drive.amplitude < 0).any():
        raise PayloadRejected("an amplitude below 0; turn the phase by π instead")
    if channel.mod_bandwidth_mhz is not None and np.ptp(drive.phase) > 0:
        raise PayloadRejected(
            f"the phase changes, for which {device.name} pauses; use the backend 'pasqal'"
        )
    return drive


def interactions(sequence: RydbergSequence, c6: float) -> _Reals:
    """Return C6/r⁶ of each pair of atoms in rad/µs, 0 on the diagonal."""
    places = np.array([atom.place_um for atom in sequence.atoms])
    squares = ((places[:, None] - places[None]) ** 2).sum(axis=-1)
    np.fill_diagonal(squares, np.inf)
    if (squares == 0).any():
        raise PayloadRejected("two atoms are at one place")
    return np.asarray(c6 / squares**3, dtype=float)


def evolution_steps(drive: Drive, couplings: _Reals) -> int:
    """Return in how many steps `probabilities` follows a drive."""
    return len(drive.amplitude) * _steps(couplings)


def probabilities(
    drive: Drive, couplings: _Reals, *, check: Callable[[], None] = lambda: None
) -> _Reals:
    """Return the probability of each outcome after a drive; the first atom is the highest bit.

    H = Ω/2 Σᵢ (exp(−iφ) |g⟩⟨r|ᵢ + h.c.) − δ Σᵢ nᵢ + Σ_{i<j} Uᵢⱼ nᵢnⱼ, with n = |r⟩⟨r|. Each step is
    split symmetrically: half of what is diagonal, the rotation of each atom, the other half.

    check: called between steps; what it raises ends the evolution.
    """
    atoms = len(couplings)
    bits = _bits(atoms)
    excited = bits.sum(axis=1).astype(int)
    energies = np.einsum("si,ij,sj->s", bits, couplings, bits) / 2
    steps = _steps(couplings)
    step_us = _STEP_US / steps
    half = np.exp(-0.5j * step_us * energies)
    state: _State = np.zeros(1 << atoms, dtype=complex)
    state[0] = 1.0
    numbers = np.arange(atoms + 1)
    for time_ns in range(len(drive.amplitude)):
        detuned = np.exp(0.5j * step_us * drive.detuning[time_ns] * numbers)
        diagonal = half * detuned[excited]
        turn = _rotation(drive.amplitude[time_ns] * step_us, drive.phase[time_ns])
        for _ in range(steps):
            check()
            state = diagonal * _turned(diagonal * state, turn, atoms)
    found = np.abs(state) ** 2
    return np.asarray(found / found.sum(), dtype=float)


def sampled(
    outcomes: _Reals, atoms: int, shots: int, random: np.random.Generator
) -> Mapping[str, int]:
    """Return counts of so many measurements."""
    numbers = random.multinomial(shots, outcomes)
    return {f"{outcome:0{atoms}b}": int(numbers[outcome]) for outcome in np.flatnonzero(numbers)}


def _joined(parts: list[_Reals]) -> _Reals:
    return np.concatenate(parts) if parts else np.zeros(0)


def _bits(atoms: int) -> _Reals:
    outcomes = np.arange(1 << atoms)
    return ((outcomes[:, None] >> np.arange(atoms)[::-1]) & 1).astype(float)


def _steps(couplings: _Reals) -> int:
    strongest = float(couplings.max(initial=0.0)) * _STEP_US
    return min(_MOST_STEPS_PER_NS, max(1, math.ceil(strongest / _PHASE)))


def _rotation(angle: float, phase: float) -> _State:
    cosine, sine = math.cos(angle / 2), math.sin(angle / 2)
    turned = -1j * sine * complex(math.cos(phase), -math.sin(phase))
    return np.array([[cosine, turned], [-turned.conjugate(), cosine]])


def _turned(state: _State, turn: _State, atoms: int) -> _State:
    """Apply one rotation to every atom."""
    for _ in range(atoms):  # each turn of the axes brings the next atom to the front
        state = (turn @ state.reshape(2, -1)).T.reshape(-1)
    return state
