"""Analog payloads: what is read and refused, how sequences are written, cut and merged."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import registry
from backends.analog.builder import RydbergPulse, rydberg_sequence
from backends.analog.device import C6_BY_LEVEL, DeviceError, rydberg_device
from backends.analog.devices import DEVICE_NAMES, shipped_device, stated_device
from backends.analog.evolution import drive_of, interactions, probabilities
from backends.analog.sequence import parse_sequence
from backends.analog.waveforms import Waveform, waveform_duration_ns, waveform_samples
from backends.api import PayloadRejected, TaskFailed, TaskState, Waitable
from backends.frames import pack, unpack
from backends.payloads import (
    AnalogCounts,
    AnalogPayload,
    PayloadLimits,
    Piece,
    payload_from_bytes,
    payload_from_untrusted,
    payload_kind,
)
from backends.targets import target_from_json, target_to_json
from backends.validate import check_fits
from tests.errors import naming
from tests.patience import until

ANALOG, FREE = shipped_device("analog"), shipped_device("free")
KIND = payload_kind("analog")
TARGET = registry.describe("rydberg", {})


def pulse(duration_ns: int = 400, amplitude: float = 3.0, phase: float = 0.0) -> RydbergPulse:
    return RydbergPulse(
        amplitude=Waveform.constant(duration_ns, amplitude),
        detuning=Waveform.ramp(duration_ns, -5.0, 5.0),
        phase=phase,
    )


def text(device=ANALOG, atoms=((0, 0), (6, 0)), pulses=None) -> str:
    return rydberg_sequence(atoms, pulses or [pulse()], device)


CONSTANT = {"kind": "constant", "duration": 1_000_000, "value": 0.0}
MANY = {"kind": "composite", "waveforms": [CONSTANT] * 1000}
LONG = {
    "op": "pulse", "channel": "rydberg", "amplitude": CONSTANT, "detuning": CONSTANT, "phase": 0.0
}  # fmt: skip
# Pulser alone can say how long it lasts.
MAXIMAL = LONG | {"amplitude": {"kind": "blackman_max", "max_val": 1.0, "area": 1.0}}


def changed(change: Callable[[dict[str, Any]], object], device=ANALOG) -> str:
    stated = json.loads(text(device))
    change(stated)
    return json.dumps(stated)


def test_bytes_of_a_sequence_are_its_identity() -> None:
    given = text()
    payload = AnalogPayload.coerce([given], shots=10, seed=1)
    assert payload.items[0].data == given.encode()
    spaced = json.dumps(json.loads(given), indent=1)
    assert AnalogPayload.coerce([spaced], shots=10, seed=1) != payload
    assert AnalogPayload.coerce([given.encode()], shots=10, seed=1) == payload
    for again in (
        payload_from_bytes(payload.to_bytes()),
        payload_from_untrusted(payload.to_bytes(), limits=PayloadLimits()),
    ):
        assert again == payload
        assert again.digest == payload.digest
        assert hash(again) == hash(payload)


def test_an_object_of_pulser_is_taken_as_its_text() -> None:
    class Sequence:
        def to_abstract_repr(self) -> str:
            return text()

    pair = AnalogPayload.coerce([(Sequence(), 7), Sequence()], shots=3)
    assert [shape.shots for shape in pair.shapes] == [7, 3]
    assert [shape.num_qubits for shape in pair.shapes] == [2, 2]
    assert pair.num_qubits == 2
    with pytest.raises(PayloadRejected, match="list"):
        AnalogPayload.coerce(Sequence(), shots=3)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.update(version="2"), ["version", "2"]),
        (lambda s: s.pop("register"), ["register"]),
        (lambda s: s.update(variables={"t": {}}), ["variables", "build"]),
        (lambda s: s.update(measurement=None), ["measure"]),
        (lambda s: s.update(register=[]), ["register"]),
        (lambda s: s.update(register=[{"qid": "q0"}]), ["build"]),
        (lambda s: s["register"][0].update(x=math.inf), ["Infinity"]),
        (lambda s: s["register"][0].update(x="1"), ["q0", "numbers"]),
        (lambda s: s["register"][0].update(name="q1"), ["q1"]),
        (lambda s: s["register"][0].update(z=1.0), ["coordinates"]),
        (lambda s: s.update(channels={}), ["channel"]),
        (lambda s: s["operations"].append({"op": "fly"}), ["fly", "pulse"]),
        (lambda s: s["operations"][0].update(channel="other"), ["other", "rydberg"]),
        (lambda s: s["operations"][0].update(phase=None), ["phases"]),
        (lambda s: s["operations"][0].pop("detuning"), ["detuning"]),
        (lambda s: s["operations"][0]["detuning"].update(duration=8), ["400", "8"]),
        (lambda s: s["operations"][0]["detuning"].update(kind="spiral"), ["spiral", "ramp"]),
        (lambda s: s["operations"][0]["detuning"].update(duration=-4), ["-4"]),
        (lambda s: s["operations"][0]["detuning"].update(duration=10**9), ["1000000000"]),
        (lambda s: s["register"][0].update(x=10**400), ["q0", "finite"]),
        (lambda s: s["operations"][0].update(phase=-(10**400)), ["phases"]),
        (lambda s: s["operations"][0].update(op=[]), ["[]", "pulse"]),
        (lambda s: s["operations"][0].update(channel={}), ["{}", "rydberg"]),
        (lambda s: s["operations"][0].update(channel=[]), ["[]", "rydberg"]),
        (lambda s: s["operations"].append(delay(10**9)), ["1000000"]),
        (lambda s: s["operations"].append(delay(1e308)), ["1000000"]),
        (lambda s: s["operations"].append(delay(10**400)), ["delay"]),
        (lambda s: s["operations"].extend([MAXIMAL, *[LONG] * 3]), ["1000000"]),
        (lambda s: s["operations"][0].update(amplitude=MANY), ["composite", "1000000000"]),
        (lambda s: s.update(device={}), ["device"]),
        (lambda s: s.update(layout={}), ["layout"]),
    ],
)
def test_what_is_no_sequence_is_refused(change, named) -> None:
    with pytest.raises(PayloadRejected, match=naming(*named)):
        AnalogPayload.coerce([changed(change)], shots=10)


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"null", b"[" * 100_000, b'{"version": 1}'])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(PayloadRejected):
        parse_sequence(data)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s["device"].update(rydberg_level=70), ["70", "60"]),
        (lambda s: s["register"][1].update(x=1.0, y=0.0), ["q0", "q1", "5"]),
        (lambda s: s["register"][1].update(x=60.0, y=0.0), ["60", "38"]),
        (lambda s: s.update(channels={"rydberg": "raman_local"}), ["raman_local"]),
        (lambda s: s.pop("layout"), ["layout"]),
        (lambda s: s["layout"]["coordinates"].pop(), ["2 atoms", "3 traps"]),
        (lambda s: s["operations"][0]["amplitude"].update(value=13.0), ["13", "12.566"]),
        (lambda s: s["operations"][0]["detuning"].update(stop=-130), ["130", "125.664"]),
        (lambda s: [w.update(duration=402) for w in waves(s)], ["402", "4 ns"]),
        (lambda s: [w.update(duration=8) for w in waves(s)], ["8 ns", "16"]),
        (lambda s: [w.update(duration=6400) for w in waves(s)], ["6400", "6000"]),
    ],
)
def test_what_the_device_cannot_run_is_refused(change, named) -> None:
    payload = AnalogPayload.coerce([changed(change)], shots=10)
    with pytest.raises(PayloadRejected, match=naming(*named)):
        check_fits(payload, TARGET)


def waves(stated: dict[str, Any]) -> list[dict[str, Any]]:
    return [stated["operations"][0]["amplitude"], stated["operations"][0]["detuning"]]


def test_more_atoms_than_there_are_traps_are_refused() -> None:
    row = [(6.0 * (n % 6), 6.0 * (n // 6)) for n in range(30)]
    payload = AnalogPayload.coerce([text(atoms=row)], shots=10)
    with pytest.raises(PayloadRejected, match=naming(30, 14)):
        check_fits(payload, TARGET)
    with pytest.raises(PayloadRejected, match=naming(90, 80)):
        text(atoms=[(5.0 * (n % 10), 5.0 * (n // 10)) for n in range(90)])


@pytest.mark.parametrize(
    ("header", "frames"),
    [
        ({"items": []}, []),
        ({"items": [{"shots": 1, "seed": None}]}, []),
        ({"items": [{"shots": 0, "seed": None}]}, [text().encode()]),
        ({"items": [{"shots": True, "seed": None}]}, [text().encode()]),
        ({"items": [{"shots": 1, "seed": -1}]}, [text().encode()]),
        ({"items": [{"shots": 1}]}, [text().encode()]),
        ({"items": [{"shots": 10**10, "seed": None}]}, [text().encode()]),
        ({"items": 3}, [text().encode()]),
        ({"items": [{"shots": 1, "seed": None}], "more": 1}, [text().encode()]),
        ({"items": [{"shots": 1, "seed": None}]}, [b"{}"]),
    ],
)
def test_users_bytes_are_checked(header: dict[str, Any], frames: list[bytes]) -> None:
    data = pack({"kind": "analog", **header}, frames)
    with pytest.raises(PayloadRejected):
        payload_from_untrusted(data, limits=PayloadLimits())


def test_users_sequences_have_a_bound_of_operations() -> None:
    payload = AnalogPayload.coerce([text(FREE, pulses=[pulse()] * 20)], shots=1)
    from backends.qpy_outline import Bounds

    limits = PayloadLimits(circuit=Bounds(steps=19))
    with pytest.raises(PayloadRejected, match=naming(20, 19)):
        payload_from_untrusted(payload.to_bytes(), limits=limits)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=5), st.integers(0, 2**63 - 1))
def test_a_cut_job_is_merged(cuts: list[int], seed: int) -> None:
    payload = AnalogPayload.coerce([(text(), sum(cuts)), (text(), 5)], seed=seed)
    ends = np.cumsum(cuts).tolist()
    pieces = [
        Piece(pub=0, first_point=0, end_point=1, first_shot=end - cut, end_shot=end)
        for cut, end in zip(cuts, ends, strict=True)
    ]
    pieces.append(Piece(pub=1, first_point=0, end_point=1, first_shot=0, end_shot=5))
    task = KIND.assemble([(payload, piece) for piece in pieces])
    assert [shape.shots for shape in task.shapes] == [*cuts, 5]
    assert task.items[-1] is payload.items[1]
    seeds = [item.seed for item in task.items]
    assert len(set(seeds)) == len(seeds)
    found = [
        AnalogCounts(atoms=("q0", "q1"), counts={"00": piece.shots, "10": 0}) for piece in pieces
    ]
    merged = KIND.merge(list(zip(reversed(pieces), reversed(found), strict=True)), lambda: payload)
    assert [one.shots for one in merged] == [sum(cuts), 5]
    native, frames = KIND.pack_result(merged)
    assert KIND.unpack_result(json.loads(json.dumps(native)), frames) == merged


@pytest.mark.parametrize("counts", [{"0": 1}, {"02": 1}, {"00": -1}])
def test_a_damaged_result_is_refused(counts: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="outcome"):
        KIND.unpack_result([{"atoms": ["a", "b"], "counts": counts}], [])


@pytest.mark.parametrize("name", DEVICE_NAMES)
def test_devices_travel_with_a_target(name: str) -> None:
    target = registry.describe("rydberg", {"device": name})
    copy = target_from_json(json.loads(json.dumps(target_to_json(target))))
    assert copy.rydberg == shipped_device(name) == target.rydberg


def test_a_device_is_read_from_a_file(tmp_path) -> None:
    file = tmp_path / "device.json"
    file.write_text(ANALOG.specification)
    assert stated_device(str(file)) == ANALOG
    for odd in ("{}", "[", '{"version": "2"}', ANALOG.specification.replace("60", "7")):
        file.write_text(odd)
        with pytest.raises(DeviceError):
            stated_device(str(file))
    with pytest.raises(DeviceError, match=naming("analog", "nowhere.json")):
        stated_device("nowhere.json")
    with pytest.raises(DeviceError):
        rydberg_device("null")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"devise": "analog"}, ["devise", "device"]),
        ({"device": 3}, ["device", "3"]),
        ({"device": "nowhere"}, ["nowhere", "analog"]),
        ({"max_atoms": 40}, ["40", "20"]),
        ({"time_scale": -1}, ["-1"]),
    ],
)
def test_options_are_checked(options: dict[str, Any], named: list[Any]) -> None:
    with pytest.raises(ValueError, match=naming(*named)):
        registry.describe("rydberg", options)


def test_the_blockade_radius_is_where_interaction_equals_drive() -> None:
    radius = ANALOG.blockade_radius_um(2 * math.pi)
    assert radius == pytest.approx((C6_BY_LEVEL[60] / (2 * math.pi)) ** (1 / 6))
    with pytest.raises(ValueError, match="above 0"):
        ANALOG.blockade_radius_um(0)


@given(
    st.integers(1, 12),
    st.integers(0, 2**32),
)
def test_layouts_hold_the_atoms_in_few_enough_traps(atoms: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    places: list[tuple[float, float]] = []
    while len(places) < atoms:
        place = tuple(random.uniform(-15, 15, 2))
        if all(math.dist(place, other) > 5.01 for other in places):
            places.append(place)
    stated = json.loads(text(atoms=places))
    traps = [tuple(trap) for trap in stated["layout"]["coordinates"]]
    assert {(atom["x"], atom["y"]) for atom in stated["register"]} <= set(traps)
    assert atoms <= 0.5 * len(traps)
    gaps = [math.dist(a, b) for n, a in enumerate(traps) for b in traps[:n]]
    assert min(gaps, default=math.inf) >= 5 - 1e-5
    assert max(math.hypot(*trap) for trap in traps) <= 38 + 1e-6


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Waveform.constant(0, 1.0),
        lambda: Waveform.constant(True, 1.0),
        lambda: Waveform.constant(10**7, 1.0),
        lambda: Waveform.ramp(10, math.nan, 1.0),
        lambda: Waveform.interpolated(10, [1.0]),
        lambda: Waveform.interpolated(10, [1.0, 2.0], [0.5, 0.5]),
        lambda: Waveform.interpolated(10, [1.0, 2.0], [0.0, 1.5]),
        lambda: Waveform.interpolated(10, [1.0, 2.0], [0.0]),
        lambda: rydberg_sequence([], [pulse()], ANALOG),
        lambda: rydberg_sequence([(0, 0)], [], ANALOG),
        lambda: rydberg_sequence([(0, 0, 0)], [pulse()], ANALOG),
        lambda: rydberg_sequence([(0, 0), (0, 1)], [pulse()], ANALOG),
        lambda: rydberg_sequence([(0, 0)], [pulse(401)], ANALOG),
    ],
)
def test_wrong_waveforms_and_sequences_are_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each states another value
        wrong()


def test_windows_and_parts_are_sampled() -> None:
    window = {"kind": "blackman", "duration": 500, "area": math.pi}
    samples = waveform_samples(window)
    assert samples is not None
    assert samples.sum() / 1000 == pytest.approx(math.pi)
    kaiser = waveform_samples({"kind": "kaiser", "duration": 500, "area": 2.0, "beta": 14})
    assert kaiser is not None
    assert kaiser.sum() / 1000 == pytest.approx(2.0)
    custom = {"kind": "custom", "samples": [1.0, 2.0]}
    both = {"kind": "composite", "waveforms": [window, custom]}
    assert waveform_duration_ns(both) == 502
    assert waveform_samples(both)[-2:].tolist() == [1.0, 2.0]  # type: ignore[index]  # as sampled
    search = {"kind": "blackman_max", "max_val": 1.0, "area": 1.0}
    assert waveform_duration_ns(search) is waveform_samples(search) is None
    mixed = {"kind": "composite", "waveforms": [search, custom]}
    assert waveform_duration_ns(mixed) is waveform_samples(mixed) is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.update(measurement="digital"), ["pasqal"]),
        (lambda s: s["operations"].append({"op": "phase_shift", "phi": 1}), ["phase_shift"]),
        (lambda s: s["operations"][0]["amplitude"].update(value=-1.0), ["below 0"]),
        (lambda s: s["operations"].append({**s["operations"][0], "phase": 1.0}), ["pauses"]),
        (
            lambda s: s["operations"][0].update(
                amplitude={"kind": "blackman_max", "max_val": 5.0, "area": 1.0}
            ),
            ["Pulser"],
        ),
    ],
)
def test_the_emulator_states_what_it_cannot_compute(change, named) -> None:
    sequence = parse_sequence(changed(change).encode())
    with pytest.raises(PayloadRejected, match=naming(*named)):
        drive_of(sequence, ANALOG)


def test_a_strong_interaction_is_stepped_finely() -> None:
    # 1 µm apart the interaction is 5.4 million rad/µs; the pair is blocked all the same.
    sequence = parse_sequence(text(FREE, [(0, 0), (2.5, 0)], [pulse(300, 5.0)]).encode())
    outcomes = probabilities(drive_of(sequence, FREE), interactions(sequence, FREE.c6))
    assert outcomes[3] < 1e-4
    assert outcomes.sum() == pytest.approx(1.0)


def test_a_delay_passes_without_drive() -> None:
    half = changed(lambda s: s["operations"].insert(0, delay(400)), FREE)
    sequence = parse_sequence(half.encode())
    assert sequence.duration_ns == 800
    drive = drive_of(sequence, FREE)
    assert not drive.amplitude[:400].any()
    assert drive.amplitude[400:].all()


def delay(time_ns: float) -> dict[str, Any]:
    return {"op": "delay", "channel": "rydberg", "time": time_ns}


def test_the_header_states_the_kind() -> None:
    header, frames = unpack(AnalogPayload.coerce([text()], shots=2).to_bytes())
    assert header["kind"] == "analog"
    assert frames == [text().encode()]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rydberg", {"device": "free", "time_scale": 1.0}),
        ("warden", {"url": "http://127.0.0.1:1", "session": "s", "device": "free"}),
        (
            "pasqal-cloud",
            {"project": "p", "device_type": "D", "token": "secret", "device": "free"},
        ),
    ],
)
def test_dry_runs_simulate_the_device_without_a_secret(tmp_path, name, options) -> None:
    dry = create_factory(name).simulated(options)
    assert "secret" not in str(dry)
    assert "token" not in dry
    described = registry.describe(name, dry)
    assert described.rydberg == FREE
    assert described.clock_scale == 0
    backend = registry.create(name, dry, state_dir=tmp_path)
    payload = AnalogPayload.coerce([text(FREE)], shots=10, seed=1)
    task = backend.start(backend.acquire(), payload, "dry")
    assert isinstance(backend, Waitable)
    assert backend.wait(task, 30.0) is TaskState.COMPLETED
    assert backend.result(task).native[0].shots == 10
    backend.close()


def create_factory(name: str) -> Any:
    return registry.available()[name].load()


@pytest.mark.parametrize("name", ["warden", "pasqal-cloud"])
def test_simulated_is_true_or_false(name) -> None:
    with pytest.raises(ValueError, match="simulated"):
        registry.describe(name, {"url": "http://127.0.0.1:1", "simulated": "yes"})


@pytest.mark.parametrize(
    ("atoms", "duration_ns"),
    [
        ([(0, 0), (0.5, 0)], 1_000_000),  # so close that each nanosecond takes 200 steps
        ([(0.9 * number, 0) for number in range(14)], 20_000),
    ],
)
def test_what_would_take_hours_to_simulate_is_refused(tmp_path, atoms, duration_ns) -> None:
    sequence = text(FREE, atoms, [pulse(duration_ns)])
    payload = AnalogPayload.coerce([sequence], shots=10, seed=1)
    backend = registry.create("rydberg", {"device": "free"}, state_dir=tmp_path)
    task = backend.start(backend.acquire(), payload, "t")
    assert until(lambda: backend.status(task) is TaskState.FAILED)
    with pytest.raises((PayloadRejected, TaskFailed), match="fewer atoms"):
        backend.result(task)
    backend.close()
