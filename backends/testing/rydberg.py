"""Analog sequences whose statistics are known, as checks of what a neutral-atom QPU measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.linalg import expm

from backends.analog.builder import RydbergPulse, rydberg_sequence
from backends.analog.device import RydbergDevice
from backends.analog.devices import shipped_device
from backends.analog.waveforms import Waveform
from backends.api import Target
from backends.payloads import AnalogPayload
from backends.testing.cases import Native
from backends.testing.physics import NotApplicable, Trial

__all__ = [
    "ANALOG_CHECKS",
    "atoms_keep_their_order",
    "lengthy_sequences",
    "one_atom_oscillates",
    "random_sequences_follow_their_hamiltonian",
    "smallest_sequence",
    "two_close_atoms_are_not_both_excited",
]

_LENGTHY_ATOMS, _LENGTHY_NS, _LENGTHY_SHOTS = 7, 4000, 1000
_POINTS = 6
_AMPLITUDE = 2 * math.pi  # in rad/µs, where the device takes as much
# How much stronger than the drive an interaction is that blocks a second excitation.
_BLOCKADE = 20.0
_DEVIATIONS = 5.5
# Samples of waveforms are a nanosecond apart, and so uncertain are pulses' ends.
_SAMPLING = 0.006
_EXAMPLES, _MOST_ATOMS, _STEP_NS = 6, 4, 2

_State = NDArray[np.complex128]


def smallest_sequence(target: Target, native: Native, shots: int) -> AnalogPayload:
    """Return one short pulse on one atom."""
    del native
    device = _device(target)
    pulse = _square(1.0, _lasting(device, 100))
    return AnalogPayload.coerce([rydberg_sequence([(0, 0)], [pulse], device)], shots=shots)


def lengthy_sequences(target: Target, native: Native) -> AnalogPayload:
    """Return a few long sequences on several atoms, or what fits into one task."""
    del native
    device = _device(target)
    atoms = min(_LENGTHY_ATOMS, target.num_qubits or _LENGTHY_ATOMS)
    gap = max(device.min_distance_um, 6.0)
    row = [(gap * (number % 3), gap * (number // 3)) for number in range(atoms)]
    lasting = _lasting(device, min(_LENGTHY_NS, device.max_duration_ns or _LENGTHY_NS))
    sequence = rydberg_sequence(row, [_square(_amplitude(device), lasting)], device)
    shots = min(_LENGTHY_SHOTS, target.max_shots or _LENGTHY_SHOTS)
    return AnalogPayload.coerce([sequence] * min(2, target.max_circuits or 2), shots=shots)


def one_atom_oscillates(trial: Trial) -> None:
    """A driven atom is excited with the probability sin²(Ωt/2)."""
    device = _device(trial.target)
    amplitude = _amplitude(device)
    durations = _durations(device, 2 * math.pi / amplitude)
    found = _frequencies(
        trial,
        [rydberg_sequence([(0, 0)], [_square(amplitude, t)], device) for t in durations],
    )
    for duration, frequencies in zip(durations, found, strict=True):
        expected = math.sin(amplitude * duration * 1e-3 / 2) ** 2
        _agree(trial, frequencies.get("1", 0.0), expected, f"{duration} ns")


def two_close_atoms_are_not_both_excited(trial: Trial) -> None:
    """Within the blockade radius a pair shares one excitation, at √2 times the Rabi frequency."""
    device = _device(trial.target)
    _needs_atoms(trial, 2)
    gap = max(device.min_distance_um, 5.0)
    amplitude = min(_amplitude(device), device.c6 / gap**6 / _BLOCKADE)
    durations = _durations(device, 2 * math.pi / (math.sqrt(2) * amplitude))
    pair = [(0, 0), (gap, 0)]
    found = _frequencies(
        trial,
        [rydberg_sequence(pair, [_square(amplitude, t)], device) for t in durations],
    )
    leak = 2 / _BLOCKADE**2
    for duration, frequencies in zip(durations, found, strict=True):
        both = frequencies.get("11", 0.0)
        assert both <= _allowed(trial, leak) + leak, f"both excited after {duration} ns: {both}"
        one = frequencies.get("01", 0.0) + frequencies.get("10", 0.0)
        expected = math.sin(math.sqrt(2) * amplitude * duration * 1e-3 / 2) ** 2
        _agree(trial, one, expected, f"{duration} ns", more=4 * leak)


def atoms_keep_their_order(trial: Trial) -> None:
    """A pulse of π excites an atom far from a close pair; its place in the outcome is its own."""
    device = _device(trial.target)
    _needs_atoms(trial, 3)
    gap = max(device.min_distance_um, 5.0)
    amplitude = min(_amplitude(device), device.c6 / gap**6 / _BLOCKADE)
    (duration,) = _durations(device, math.pi / amplitude, points=1)
    far = 4.5 * gap
    places = {"alone": (far, 0.0), "left": (0.0, 0.0), "right": (0.0, gap)}
    orders = [["alone", "left", "right"], ["left", "right", "alone"], ["right", "alone", "left"]]
    pulse = _square(amplitude, duration)
    found = _frequencies(
        trial,
        [rydberg_sequence({name: places[name] for name in o}, [pulse], device) for o in orders],
    )
    for order, frequencies in zip(orders, found, strict=True):
        place = order.index("alone")
        excited = sum(share for outcome, share in frequencies.items() if outcome[place] == "1")
        _agree(trial, excited, 1.0, f"atoms {order}", more=0.02)


def random_sequences_follow_their_hamiltonian(trial: Trial) -> None:
    """Random registers and pulses give what an integration of their Hamiltonian does."""
    device = _device(trial.target)
    random = np.random.default_rng(20261129)
    most = min(_MOST_ATOMS, trial.target.num_qubits or _MOST_ATOMS)
    examples = [_example(device, random, most) for _ in range(_EXAMPLES)]
    found = _frequencies(
        trial, [rydberg_sequence(one.places, one.written, device) for one in examples]
    )
    for number, (example, frequencies) in enumerate(zip(examples, found, strict=True)):
        expected = _integrated(example, device.c6)
        for outcome, chance in enumerate(expected):
            text = f"{outcome:0{len(example.places)}b}"
            _agree(trial, frequencies.get(text, 0.0), float(chance), f"example {number}, {text}")


ANALOG_CHECKS: tuple[Callable[[Trial], None], ...] = (
    one_atom_oscillates,
    two_close_atoms_are_not_both_excited,
    atoms_keep_their_order,
    random_sequences_follow_their_hamiltonian,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pulse:
    """A random pulse: its duration, values of Ω and of δ to be interpolated, and its phase."""

    duration_ns: int
    amplitudes: tuple[float, ...]
    detunings: tuple[float, ...]
    phase: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Example:
    places: tuple[tuple[float, float], ...]
    pulses: tuple[_Pulse, ...]

    @property
    def written(self) -> list[RydbergPulse]:
        return [
            RydbergPulse(
                amplitude=_waveform(pulse.duration_ns, pulse.amplitudes),
                detuning=_waveform(pulse.duration_ns, pulse.detunings),
                phase=pulse.phase,
            )
            for pulse in self.pulses
        ]


def _waveform(duration_ns: int, values: Sequence[float]) -> Waveform:
    """Return values as the plainest waveform through them."""
    match len(values):
        case 1:
            return Waveform.constant(duration_ns, values[0])
        case 2:
            return Waveform.ramp(duration_ns, values[0], values[1])
        case _:
            return Waveform.interpolated(duration_ns, values)


def _example(device: RydbergDevice, random: np.random.Generator, most: int) -> _Example:
    gap = max(device.min_distance_um, 5.0)
    places: list[tuple[float, float]] = []
    atoms = int(random.integers(1, most + 1))
    while len(places) < atoms:
        place = tuple(float(axis) for axis in random.uniform(-1.8 * gap, 1.8 * gap, 2))
        if all(math.dist(place, other) > gap * 1.001 for other in places):
            places.append((place[0], place[1]))
    highest = min(_amplitude(device), 10.0)
    widest = min(15.0, _detuning(device))
    fixed = any(channel.mod_bandwidth_mhz for channel in device.channels)
    phase = float(random.uniform(0, 2 * math.pi))
    pulses = [
        _Pulse(
            duration_ns=_lasting(device, int(random.integers(150, 500))),
            amplitudes=tuple(random.uniform(0, highest, int(random.integers(1, 5)))),
            detunings=tuple(random.uniform(-widest, widest, int(random.integers(1, 5)))),
            phase=phase if fixed else float(random.uniform(0, 2 * math.pi)),
        )
        for _ in range(int(random.integers(1, 3)))
    ]
    return _Example(places=tuple(places), pulses=tuple(pulses))


def _integrated(example: _Example, c6: float) -> NDArray[np.float64]:
    """Return the probabilities of outcomes: matrix exponentials of H at the middle of each step."""
    atoms = len(example.places)
    number = np.diag([0.0, 1.0])
    lower = np.array([[0.0, 1.0], [0.0, 0.0]])  # |g⟩⟨r|

    def on(operator: NDArray[np.float64], atom: int) -> NDArray[np.float64]:
        whole: NDArray[np.float64] = np.eye(1)
        for other in range(atoms):
            part = operator if other == atom else np.eye(2)
            whole = np.asarray(np.kron(whole, part), dtype=float)
        return whole

    numbers = [on(number, atom) for atom in range(atoms)]
    excited, flips = sum(numbers), sum(on(lower, atom) for atom in range(atoms))
    pairs = [(i, j) for i in range(atoms) for j in range(i)]
    repulsion = np.zeros((1 << atoms, 1 << atoms))
    for i, j in pairs:
        gap = math.dist(example.places[i], example.places[j])
        repulsion += c6 / gap**6 * numbers[i] @ numbers[j]
    state: _State = np.zeros(1 << atoms, dtype=complex)
    state[0] = 1.0
    for pulse in example.pulses:
        turn = np.exp(-1j * pulse.phase) * flips
        drive = turn + turn.conj().T
        for start in range(0, pulse.duration_ns, _STEP_NS):
            step = min(_STEP_NS, pulse.duration_ns - start)
            part = (start + step / 2 - 0.5) / (pulse.duration_ns - 1)  # samples are at 0, 1, 2, ...
            hamiltonian = (
                _value(pulse.amplitudes, part) / 2 * drive
                - _value(pulse.detunings, part) * excited
                + repulsion
            )
            state = expm(-1j * hamiltonian * step * 1e-3) @ state
    return np.asarray(np.abs(state) ** 2, dtype=float)


def _value(values: Sequence[float], part: float) -> float:
    """Return a waveform's value after a part of its duration."""
    if len(values) == 1:
        return values[0]
    places = np.linspace(0, 1, len(values))
    if len(values) == 2:
        return float(np.interp(part, places, values))
    return float(PchipInterpolator(places, values)(part))


def _device(target: Target) -> RydbergDevice:
    """Return the target's device; where it states none, one without limits."""
    return target.rydberg or shipped_device("free")


def _needs_atoms(trial: Trial, atoms: int) -> None:
    if (trial.target.num_qubits or atoms) < atoms:
        raise NotApplicable(f"the target holds fewer than {atoms} atoms")


def _amplitude(device: RydbergDevice) -> float:
    limits = [one.max_amplitude for one in device.channels if one.addressing == "Global"]
    return min([_AMPLITUDE, *(limit for limit in limits if limit is not None)])


def _detuning(device: RydbergDevice) -> float:
    limits = [one.max_detuning for one in device.channels if one.addressing == "Global"]
    return min([math.inf, *(limit for limit in limits if limit is not None)])


def _lasting(device: RydbergDevice, about_ns: float) -> int:
    """Return the nearest duration that the device takes."""
    channel = device.channels[0]
    periods = max(1, round(about_ns / channel.clock_period_ns))
    least = -(-channel.min_duration_ns // channel.clock_period_ns)
    return max(periods, least) * channel.clock_period_ns


def _durations(device: RydbergDevice, last_us: float, points: int = _POINTS) -> list[int]:
    return [_lasting(device, 1000 * last_us * number / points) for number in range(1, points + 1)]


def _square(amplitude: float, duration_ns: int) -> RydbergPulse:
    return RydbergPulse(
        amplitude=Waveform.constant(duration_ns, amplitude),
        detuning=Waveform.constant(duration_ns, 0.0),
    )


def _frequencies(trial: Trial, sequences: Sequence[str]) -> list[Mapping[str, float]]:
    """Sample sequences, as many in a task as the target takes."""
    together = trial.target.max_circuits or len(sequences)
    shots = trial.most_shots
    found: list[Mapping[str, float]] = []
    for first in range(0, len(sequences), together):
        payload = AnalogPayload.coerce(sequences[first : first + together], shots=shots, seed=first)
        native = trial.run(payload).native
        for item, counts in zip(payload.items, native, strict=True):
            assert counts.shots == shots
            assert counts.atoms == tuple(atom.name for atom in item.sequence.atoms)
            found.append({outcome: n / shots for outcome, n in counts.counts.items()})
    return found


def _agree(trial: Trial, found: float, expected: float, what: str, *, more: float = 0.0) -> None:
    allowed = _allowed(trial, expected) + more
    assert abs(found - expected) <= allowed, f"{what}: {found:.4f}, expected {expected:.4f}"


def _allowed(trial: Trial, expected: float) -> float:
    shots = trial.most_shots
    spread = math.sqrt(max(expected * (1 - expected), 1 / shots) / shots)
    return _DEVIATIONS * spread + _SAMPLING + trial.noise
