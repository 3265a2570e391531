"""Pulser's emulator in an environment of its own, and as the judge of sequences and our evolution."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from backends import registry
from backends.analog.builder import RydbergPulse, rydberg_sequence
from backends.analog.devices import shipped_device
from backends.analog.evolution import drive_of, interactions, probabilities
from backends.analog.sequence import parse_sequence
from backends.analog.waveforms import Waveform, waveform_samples
from backends.api import PayloadRejected, TaskState, Waitable
from backends.payloads import AnalogPayload
from backends.plugins import PluginUnusable
from backends.testing import BackendConformance
from tests.errors import naming
from tests.vendors.environments import environment_or_skip, judge

pytestmark = pytest.mark.vendor
ENVIRONMENT = environment_or_skip("pasqal")


class TestPulserInChild(BackendConformance):
    takes = frozenset({"analog"})
    options: ClassVar = {}
    shots = 2000

    @classmethod
    def make_backend(cls, state_dir):
        return registry.create("pasqal", cls.options, state_dir=state_dir, environment=ENVIRONMENT)

    @classmethod
    def describe(cls):
        return registry.describe("pasqal", cls.options, environment=ENVIRONMENT)


class TestFreeDeviceInChild(TestPulserInChild):
    """Phases change between pulses, too."""

    options: ClassVar = {"device": "free"}


def drawn(device_name: str, random: np.random.Generator) -> str:
    """Return a random sequence for a device."""
    device = shipped_device(device_name)
    places: list[tuple[float, float]] = []
    while len(places) < random.integers(1, 6):
        place = tuple(random.uniform(-12, 12, 2))
        if all(math.dist(place, other) > 5.5 for other in places):
            places.append(place)

    def wave(duration_ns: int, low: float, high: float) -> Waveform:
        values = list(random.uniform(low, high, 4))
        match random.integers(3):
            case 0:
                return Waveform.constant(duration_ns, values[0])
            case 1:
                return Waveform.ramp(duration_ns, values[0], values[1])
        return Waveform.interpolated(duration_ns, values)

    phase = random.uniform(0, 6)
    pulses = []
    for _ in range(random.integers(1, 4)):
        duration_ns = 4 * int(random.integers(20, 150))
        turned = phase if device_name == "analog" else random.uniform(0, 6)
        amplitude, detuning = wave(duration_ns, 0, 12), wave(duration_ns, -20, 20)
        pulses.append(RydbergPulse(amplitude=amplitude, detuning=detuning, phase=turned))
    return rydberg_sequence(places, pulses, device)


@pytest.mark.parametrize("name", ["analog", "free"])
def test_pulser_reads_our_sequences_and_evolves_them_alike(tmp_path: Path, name: str) -> None:
    random = np.random.default_rng(11)
    sequences = [drawn(name, random) for _ in range(5)]
    given = tmp_path / "sequences.json"
    given.write_text(json.dumps(sequences))
    assert ENVIRONMENT.interpreter is not None
    judged = judge(Path(ENVIRONMENT.interpreter), "pulser_evolution.py", str(given))
    for text, theirs in zip(sequences, judged, strict=True):
        sequence, device = parse_sequence(text.encode()), shipped_device(name)
        assert theirs["duration_ns"] == sequence.duration_ns
        ours = probabilities(drive_of(sequence, device), interactions(sequence, device.c6))
        np.testing.assert_allclose(ours, theirs["probabilities"], atol=0.004)


def test_waveforms_are_sampled_as_pulser_does(tmp_path: Path) -> None:
    waves = [
        {"kind": "constant", "duration": 50, "value": 1.5},
        {"kind": "ramp", "duration": 33, "start": -1.0, "stop": 4.0},
        {"kind": "interpolated", "duration": 90, "values": [0, 5, 1], "times": [0, 0.3, 1]},
        {"kind": "blackman", "duration": 100, "area": 3.0},
        {"kind": "kaiser", "duration": 100, "area": 2.0, "beta": 10.0},
        {"kind": "custom", "samples": [1.0, 2.0, 0.5]},
    ]
    composite = {"kind": "composite", "waveforms": waves}
    given = tmp_path / "waves.json"
    given.write_text(json.dumps([*waves, composite]))
    assert ENVIRONMENT.interpreter is not None
    judged = judge(Path(ENVIRONMENT.interpreter), "pulser_waveforms.py", str(given))
    for wave, theirs in zip([*waves, composite], judged, strict=True):
        np.testing.assert_allclose(waveform_samples(wave), theirs, atol=1e-6)


def test_what_only_pulser_can_compute_runs_there(tmp_path: Path) -> None:
    """A turn by Ωt and back again: the device pauses where the phase changes."""
    there = {
        "amplitude": Waveform.constant(100, 7.0),
        "detuning": Waveform.constant(100, 0.0),
    }
    pulses = [RydbergPulse(**there, phase=0.0), RydbergPulse(**there, phase=math.pi)]
    device = shipped_device("analog")
    text = rydberg_sequence([(0, 0)], pulses, device)
    with pytest.raises(PayloadRejected, match="pauses"):
        drive_of(parse_sequence(text.encode()), device)
    backend = registry.create("pasqal", {}, state_dir=tmp_path, environment=ENVIRONMENT)
    payload = AnalogPayload.coerce([text], shots=200, seed=1)
    task = backend.start(backend.acquire(), payload, "turned-back")
    assert isinstance(backend, Waitable)
    assert backend.wait(task, 60.0) is TaskState.COMPLETED
    (counts,) = backend.result(task).native
    assert counts.counts == {"0": 200}
    backend.close()


def test_a_noise_model_is_taken(tmp_path: Path) -> None:
    noise = tmp_path / "noise.json"
    noise.write_text(
        judged := json.dumps(judge(Path(str(ENVIRONMENT.interpreter)), "pulser_noise.py", "0.2"))
    )
    assert "SPAM" in judged
    backend = registry.create(
        "pasqal", {"noise": str(noise)}, state_dir=tmp_path, environment=ENVIRONMENT
    )
    silence = RydbergPulse(
        amplitude=Waveform.constant(100, 0.0), detuning=Waveform.constant(100, 0.0)
    )
    text = rydberg_sequence([(0, 0)], [silence], shipped_device("analog"))
    task = backend.start(backend.acquire(), AnalogPayload.coerce([text], shots=1000, seed=1), "n")
    assert isinstance(backend, Waitable)
    assert backend.wait(task, 60.0) is TaskState.COMPLETED
    (counts,) = backend.result(task).native
    assert 120 < counts.counts["1"] < 280  # read as excited with a chance of 0.2
    backend.close()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"devise": "analog"}, ["devise", "device"]),
        ({"max_atoms": 0}, ["max_atoms", "0"]),
        ({"noise": "nowhere.json"}, ["nowhere.json"]),
        ({"device": 1}, ["device", "1"]),
    ],
)
def test_options_are_checked(tmp_path, options, named) -> None:
    with pytest.raises(PluginUnusable, match=naming(*named)):
        registry.create("pasqal", options, state_dir=tmp_path, environment=ENVIRONMENT)


def test_without_pulser_the_remedy_is_named(tmp_path) -> None:
    with pytest.raises(PluginUnusable, match=naming("install", "managed")):
        registry.create("pasqal", {}, state_dir=tmp_path)
