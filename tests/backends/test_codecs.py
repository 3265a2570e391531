"""Codecs of frames, payloads and results: damage is an error, and nothing is executed."""

from __future__ import annotations

import gc
import pickle
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.primitives import BitArray, DataBin, PrimitiveResult, PubResult, SamplerPubResult

from backends import circuits
from backends.api import PayloadRejected, Result, Usage
from backends.circuits import FrozenCircuit, load_qpy
from backends.frames import FrameError, array_from_frame, frame_from_array, json_safe, pack, unpack
from backends.metering import Charge
from backends.payloads import EstimatorPayload, SamplerPayload, payload_from_bytes
from backends.plugins import UnknownPlugin
from backends.results import result_from_bytes, result_to_bytes
from tests.errors import naming

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(json_values, st.lists(st.binary(max_size=40), max_size=4))
def test_frames_return_what_was_packed(header, frames):
    assert unpack(pack(header, frames)) == (header, frames)
    assert pack(header, frames) == pack(header, frames)


@settings(max_examples=60)
@given(st.data())
def test_damaged_frames_are_told(data):
    whole = pack({"a": [1, 2]}, [b"12345", b""])
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(FrameError):
        unpack(whole[:cut])
    with pytest.raises(FrameError):
        unpack(pickle.dumps({"a": 1}))


@pytest.mark.parametrize("header", [b"[" * 100_000, b'"\xff"', b"{"])
def test_a_header_that_is_no_json_is_told(header):
    with pytest.raises(FrameError):
        unpack(b"HQC1" + (1).to_bytes(4, "little") + len(header).to_bytes(8, "little") + header)


def test_arrays_keep_type_and_shape():
    for array in (
        np.arange(6, dtype=np.uint8).reshape(2, 3),
        np.zeros((0, 4)),
        np.array(2.5),
        np.array([1j, 2]),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    ):
        entry, frame = frame_from_array(array)
        copy = array_from_frame(entry, frame)
        assert copy.dtype == array.dtype
        assert np.array_equal(copy, array)
        assert copy.flags.writeable


def test_objects_do_not_travel():
    with pytest.raises(FrameError):
        frame_from_array(np.array([object()]))
    with pytest.raises(FrameError):
        array_from_frame({"dtype": "O", "shape": [1]}, b"12345678")
    with pytest.raises(FrameError):
        array_from_frame({"dtype": "<f8", "shape": [3]}, b"12345678")


def ansatz():
    circuit = QuantumCircuit(2)
    circuit.ry(Parameter("a") * 2 + 0.1, 0)
    circuit.cx(0, 1)
    return circuit


def test_payloads_survive_the_journey():
    sampler = SamplerPayload.coerce(
        [(ansatz().measure_all(inplace=False), [[0.1], [0.2]])], shots=9, seed=4
    )
    estimator = EstimatorPayload.coerce(
        [(ansatz(), [[{"ZZ": 0.5, "0I": 1.0}], ["XX"]], [0.3])] * 2, precision=0.1
    )
    for payload in (sampler, estimator):
        copy = payload_from_bytes(payload.to_bytes())
        assert type(copy) is type(payload)
        assert copy.digest == payload.digest
        assert copy.to_bytes() == payload_from_bytes(copy.to_bytes()).to_bytes()
        for ours, theirs in zip(payload.pubs, copy.pubs, strict=True):
            assert np.array_equal(ours.values, theirs.values)
            assert ours.circuit.circuit == theirs.circuit.circuit


def test_equal_circuits_travel_once():
    circuit = ansatz().assign_parameters([0.2]).measure_all(inplace=False)
    one = SamplerPayload.coerce([circuit], shots=1).to_bytes()
    ten = SamplerPayload.coerce([circuit] * 10, shots=1).to_bytes()
    assert len(ten) < 3 * len(one)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HQC1",
        pickle.dumps([1]),
        pack({"kind": "sampler", "circuits": 1, "pubs": []}, [b"no qpy"]),
        pack({"kind": "pulse", "circuits": 0, "pubs": []}),
        pack({"kind": "sampler", "circuits": 0, "pubs": [{"circuit": 0}]}, [b""]),
        pack(["a list"]),
    ],
)
def test_damaged_payloads_are_told(data):
    with pytest.raises(PayloadRejected):
        payload_from_bytes(data)


def test_a_circuit_in_bytes_is_one_circuit():
    frozen = FrozenCircuit.of(ansatz())
    assert FrozenCircuit.from_qpy(frozen.qpy).digest == frozen.digest
    with pytest.raises(PayloadRejected, match="QPY"):
        FrozenCircuit.from_qpy(b"QISKIT" + b"\0" * 40)


def result():
    bits = BitArray(np.array([[[1], [2]], [[3], [0]]], dtype=np.uint8), 2)
    flags = BitArray(np.array([[[1], [0]], [[1], [0]]], dtype=np.uint8), 1)
    sampled = SamplerPubResult(DataBin(zebra=bits, ant=flags, shape=(2,)), metadata={"shots": 2})
    values = DataBin(evs=np.array(0.5), stds=np.array(0.1), shape=())
    estimated = PubResult(values, metadata={"target_precision": np.float64(0.1)})
    usage = Usage(
        qpu_seconds=1.5, shots=4, circuits=2, tasks=1, charges=(Charge(amount=2, unit="s"),)
    )
    native = PrimitiveResult([sampled, estimated], metadata={"version": 2})
    return Result(native=native, usage=usage, metadata={"method": ["statevector"]})


def test_results_survive_the_journey():
    copy = result_from_bytes(result_to_bytes(result(), "sampler"))
    assert copy.usage == result().usage
    assert copy.metadata == {"method": ["statevector"]}
    first, second = copy.native
    assert isinstance(first, SamplerPubResult)
    assert list(first.data) == ["zebra", "ant"], "registers keep their order"
    assert first.data.zebra == result().native[0].data.zebra
    assert second.data.evs.shape == ()
    assert second.data.evs == 0.5
    assert second.metadata == {"target_precision": 0.1}


def test_results_of_before_there_were_other_kinds_are_read():
    header, frames = unpack(result_to_bytes(result(), "sampler"))
    earlier = {**header["native"], "usage": header["usage"], "metadata": header["metadata"]}
    copy = result_from_bytes(pack(earlier, frames))
    assert result_to_bytes(copy, "sampler") == result_to_bytes(result(), "sampler")


def test_a_result_of_a_kind_that_is_not_installed_is_no_damage():
    header, frames = unpack(result_to_bytes(result(), "sampler"))
    with pytest.raises(UnknownPlugin, match=naming("pulses", "estimator", "sampler")):
        result_from_bytes(pack({**header, "kind": "pulses"}, frames))


def test_damaged_results_are_told():
    data = result_to_bytes(result(), "sampler")
    for damaged in (data[:-1], data[:20], b"", pack({"pubs": [{}]})):
        with pytest.raises(FrameError):
            result_from_bytes(damaged)


def test_metadata_becomes_json():
    assert json_safe({1: np.int64(3), "x": (1, {2}), "y": {"z": object}}) == {
        "1": 3,
        "x": [1, "{2}"],
        "y": {"z": "<class 'object'>"},
    }


def test_usages_add():
    total = Usage(qpu_seconds=1, charges=(Charge(amount=1, unit="b"),)) + Usage(
        shots=3, tasks=1, charges=(Charge(amount=2, unit="a"), Charge(amount=3, unit="b"))
    )
    assert total.charges == (Charge(amount=2, unit="a"), Charge(amount=4, unit="b"))
    assert total + Usage() == total


def sampled(points, shots, outcomes):
    """Return a PUB of two registers, 3 and 12 bits, whose outcomes belong together."""
    rng = np.random.default_rng(4)
    drawn = rng.integers(0, outcomes, size=(*points, shots))
    wide = np.stack([drawn // 256 % 16, drawn % 256], axis=-1).astype(np.uint8)
    narrow = (drawn % 8).astype(np.uint8)[..., np.newaxis]
    data = DataBin(a=BitArray(narrow, 3), b=BitArray(wide, 12), shape=points)
    return Result(
        native=PrimitiveResult([SamplerPubResult(data, metadata={"shots": shots})]), usage=Usage()
    )


@pytest.mark.parametrize(("points", "shots"), [((), 100_000), ((2, 3), 20_000)])
def test_many_shots_travel_as_counts(points, shots):
    whole = sampled(points, shots, outcomes=50)
    data = result_to_bytes(whole, "sampler")
    assert len(data) < 10_000
    copy = result_from_bytes(data)
    assert result_to_bytes(copy, "sampler") == data
    ours, theirs = whole.native[0].data, copy.native[0].data
    assert list(theirs) == ["a", "b"]
    for index in np.ndindex(*points) if points else [None]:
        for name in ("a", "b"):
            assert theirs[name].get_counts(index) == ours[name].get_counts(index)
    joined = [BitArray.concatenate_bits([d["a"], d["b"]]) for d in (ours, theirs)]
    assert joined[0].get_counts() == joined[1].get_counts()
    # A part of the shots is a sample of all: they come in no order.
    some = theirs["a"].slice_shots(range(shots // 10)).get_counts()
    assert len(some) == 8


def test_few_shots_or_many_outcomes_keep_their_order():
    random = np.random.default_rng(5).integers(0, 256, size=(60_000, 8), dtype=np.uint8)
    many = SamplerPubResult(DataBin(a=BitArray(random, 64), shape=()))
    for pub in (sampled((), 1000, outcomes=50).native[0], many):
        whole = Result(native=PrimitiveResult([pub]), usage=Usage())
        copy = result_from_bytes(result_to_bytes(whole, "sampler"))
        for name in pub.data:
            assert np.array_equal(copy.native[0].data[name].array, pub.data[name].array)


def test_counts_that_do_not_add_up_are_told():
    header, frames = unpack(result_to_bytes(sampled((), 400_000, outcomes=50), "sampler"))
    header["native"]["pubs"][0]["counts"]["shots"] += 1
    with pytest.raises(FrameError, match=naming(400001)):
        result_from_bytes(pack(header, frames))


def test_circuits_that_nobody_uses_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A circuit refers to itself, and the collector does not count what it holds outside Python."""
    circuit = QuantumCircuit(1)
    for _ in range(1000):
        circuit.rz(0.5, 0)
    data = FrozenCircuit.of(circuit).qpy
    monkeypatch.setattr(circuits, "_unreclaimed", circuits._Unreclaimed(4 * len(data)))
    gc.collect()
    gc.disable()
    try:
        read = [weakref.ref(load_qpy(data)) for _ in range(20)]
        alive = sum(one() is not None for one in read)
    finally:
        gc.enable()
    assert alive <= 4
