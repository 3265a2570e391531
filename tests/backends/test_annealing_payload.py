"""Binary quadratic models, their payloads and samples."""

from __future__ import annotations

import tracemalloc
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.api import PayloadRejected
from backends.fake import create as fake
from backends.frames import pack, unpack
from backends.payloads import (
    AnnealingPayload,
    AnnealingSamples,
    BinaryQuadraticModel,
    PayloadLimits,
    Piece,
    payload_from_bytes,
    payload_from_untrusted,
    payload_kind,
)
from backends.quadratic_models import BINARY, SPIN
from backends.testing.annealing import all_samples
from tests.errors import naming

KIND = payload_kind("annealing")
# Eighths, so that sums and halves are exact.
numbers = st.integers(-1000, 1000).map(lambda whole: whole / 8)
vartypes = st.sampled_from([SPIN, BINARY])


@st.composite
def models(draw: Any, most: int = 6) -> tuple[BinaryQuadraticModel, Any]:
    """Return a model and what it was made of."""
    linear = draw(st.lists(numbers, min_size=1, max_size=most))
    places = st.integers(0, len(linear) - 1)
    triples = st.tuples(places, places, numbers).filter(lambda triple: triple[0] != triple[1])
    quadratic = draw(st.lists(triples, max_size=8))
    vartype, offset = draw(vartypes), draw(numbers)
    model = BinaryQuadraticModel.of(linear, quadratic, vartype=vartype, offset=offset)
    return model, (linear, quadratic, offset)


@given(models())
def test_energies_are_the_sum_of_all_terms(case: Any) -> None:
    model, (linear, quadratic, offset) = case
    samples = all_samples(model)
    for sample, energy in zip(samples.tolist(), model.energies(samples), strict=True):
        by_hand = offset + sum(h * x for h, x in zip(linear, sample, strict=True))
        assert energy == by_hand + sum(q * sample[i] * sample[j] for i, j, q in quadratic)


def test_energies_of_many_samples_of_a_dense_model_fit_into_memory() -> None:
    size, samples = 200, 4000
    model = BinaryQuadraticModel.of([1.0] * size, dict.fromkeys(combinations(range(size), 2), 1.0))
    values = np.ones((samples, size), dtype=np.int8)
    values[7] = 0
    tracemalloc.start()
    try:
        energies = model.energies(values)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < model.terms * samples * 8 / 2  # all at once took three times as much
    whole = size + size * (size - 1) / 2
    assert energies.tolist() == [whole if place != 7 else 0.0 for place in range(samples)]


@given(models(), vartypes)
def test_vartypes_are_converted_exactly(case: Any, vartype: str) -> None:
    model, _ = case
    other = model.as_vartype(vartype)
    assert other.vartype == vartype
    # Both list their samples in the same order, the lower value first.
    ours, theirs = all_samples(model), all_samples(other)
    assert model.energies(ours).tolist() == other.energies(theirs).tolist()
    assert other.as_vartype(model.vartype) == model


@given(models(), st.randoms(use_true_random=False))
def test_equal_models_have_equal_bytes(case: Any, random: Any) -> None:
    model, (linear, quadratic, offset) = case
    shuffled = [(j, i, q) if random.random() < 0.5 else (i, j, q) for i, j, q in quadratic]
    random.shuffle(shuffled)
    again = BinaryQuadraticModel.of(
        dict(enumerate(linear)), shuffled, vartype=model.vartype, offset=offset
    )
    assert again == model
    one, other = (AnnealingPayload.coerce([each], reads=5) for each in (model, again))
    assert one.digest == other.digest


@given(st.lists(models(), min_size=1, max_size=3), st.none() | st.integers(0, 2**63 - 1))
def test_a_payload_travels(cases: Any, seed: int | None) -> None:
    given_models = [model for model, _ in cases]
    payload = AnnealingPayload.coerce(given_models, reads=7, seed=seed)
    for read in (
        payload_from_bytes(payload.to_bytes()),
        payload_from_untrusted(payload.to_bytes(), limits=PayloadLimits()),
    ):
        assert isinstance(read, AnnealingPayload)
        assert read.digest == payload.digest
        assert [problem.model for problem in read.problems] == given_models
        assert [problem.seed for problem in read.problems] == [p.seed for p in payload.problems]
        assert read.shapes == payload.shapes


@settings(max_examples=200)
@given(models(), st.binary(max_size=40), st.integers(0, 10**6))
def test_damaged_bytes_are_refused_or_read_whole(case: Any, change: bytes, at: int) -> None:
    data = AnnealingPayload.coerce([case[0]], reads=3).to_bytes()
    at %= len(data)
    damaged = data[:at] + change + data[at + len(change) :]
    try:
        read = payload_from_untrusted(damaged, limits=PayloadLimits())
    except PayloadRejected:
        return
    assert payload_from_bytes(read.to_bytes()).digest == read.digest


MODEL = BinaryQuadraticModel.of([1.0, 2.0, 0.0], {(0, 1): -1.0, (1, 2): 0.5})


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"reads": 0}, ["reads", 0]),
        ({"reads": True}, ["reads", True]),
        ({"reads": 10**11}, ["reads", 10**11]),
        ({"seed": -1}, ["seed", -1]),
        ({"seed": 1.5}, ["seed", 1.5]),
        ({"vartype": "DISCRETE"}, ["DISCRETE", "SPIN", "BINARY"]),
        ({"vartype": ["SPIN"]}, ["SPIN"]),
        ({"offset": "1"}, ["offset"]),
        ({"offset": 1e300}, ["offset"]),
        ({"offset": float("nan")}, ["offset"]),
        ({"offset": -(10**400)}, ["offset"]),
        ({"variables": 4, "interactions": 1}, ["size"]),
        ({"variables": -1}, ["size"]),
        ({"extra": 1}, ["nothing else"]),
    ],
)
def test_entries_of_users_are_checked(changed: dict[str, Any], named: list[Any]) -> None:
    header, frames = unpack(AnnealingPayload.coerce([MODEL], reads=5).to_bytes())
    bytes_of_user = pack({**header, "problems": [{**header["problems"][0], **changed}]}, frames)
    with pytest.raises(PayloadRejected, match=naming(*named)):
        payload_from_untrusted(bytes_of_user, limits=PayloadLimits())


@pytest.mark.parametrize(
    "pairs",
    [[[0, 1], [0, 1]], [[1, 2], [0, 1]], [[1, 0], [1, 2]], [[0, 0], [1, 2]], [[0, 1], [1, 3]],
     [[-1, 1], [1, 2]]],
)  # fmt: skip
def test_pairs_of_users_are_checked(pairs: list[list[int]]) -> None:
    header, frames = unpack(AnnealingPayload.coerce([MODEL], reads=5).to_bytes())
    changed = pack(header, [frames[0], np.array(pairs, dtype="<i4").tobytes()])
    with pytest.raises(PayloadRejected, match="pairs"):
        payload_from_untrusted(changed, limits=PayloadLimits())


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e200])
def test_numbers_of_users_are_checked(number: float) -> None:
    header, frames = unpack(AnnealingPayload.coerce([MODEL], reads=5).to_bytes())
    values = np.frombuffer(frames[0], dtype="<f8").copy()
    values[1] = number
    with pytest.raises(PayloadRejected, match="linear"):
        payload_from_untrusted(pack(header, [values.tobytes(), frames[1]]), limits=PayloadLimits())


def test_more_terms_than_allowed_are_refused() -> None:
    data = AnnealingPayload.coerce([MODEL] * 2, reads=5).to_bytes()
    assert payload_from_untrusted(data, limits=PayloadLimits(terms=10)).digest
    with pytest.raises(PayloadRejected, match="9 terms"):
        payload_from_untrusted(data, limits=PayloadLimits(terms=9))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (([1.0], {(0, 0): 1.0}), ["(0, 0)"]),
        (([1.0], {(0, -1): 1.0}), [-1]),
        (([1.0], {(0, 1.5): 1.0}), [1.5]),
        (({"a": 1.0}, {}), ["'a'"]),
        (([1.0, float("nan")], {}), ["linear", "nan"]),
        (([1.0], {(0, 1): float("inf")}), ["quadratic", "inf"]),
        (({10**9: 1.0}, {}), [10**9]),
        (([], {}), [0]),
        ((["x"], {}), ["'x'"]),
        (([10**400], {}), ["too large"]),
        (([1.0], {(0, float("inf")): 1.0}), ["infinity"]),
    ],
)
def test_what_is_no_model_is_refused(arguments: Any, named: list[Any]) -> None:
    with pytest.raises(PayloadRejected, match=naming(*named)):
        BinaryQuadraticModel.of(*arguments)


@pytest.mark.parametrize(
    ("models", "options", "named"),
    [
        (MODEL, {}, ["list"]),
        ([], {}, ["empty"]),
        ([{"a": 1}], {}, ["problem 0", "dict"]),
        ([MODEL], {"reads": 1.5}, ["reads", 1.5]),
        ([(MODEL, 5), (MODEL, 0)], {}, ["problem 1", 0]),
        ([MODEL], {"seed": 2**63}, ["seed"]),
    ],
)
def test_what_is_no_payload_is_refused(models: Any, options: Any, named: list[Any]) -> None:
    with pytest.raises(PayloadRejected, match=naming(*named)):
        AnnealingPayload.coerce(models, **{"reads": 5, **options})


def test_a_model_of_dimod_is_taken() -> None:
    dimod = pytest.importorskip("dimod", reason="the annealing extra is not installed")
    theirs = dimod.BinaryQuadraticModel(
        {1: 2.0, 0: 1.0}, {(2, 1): 0.5, (0, 1): -1.0}, 0.0, "BINARY"
    )
    assert BinaryQuadraticModel.coerce(theirs) == MODEL
    with pytest.raises(PayloadRejected, match=naming("relabel_variables")):
        BinaryQuadraticModel.coerce(dimod.BinaryQuadraticModel({"a": 2.0}, {}, 0.0, "SPIN"))


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(1, 9)), min_size=1, max_size=20),
    st.lists(st.integers(1, 8), max_size=4),
)
def test_samples_are_merged_the_same_however_they_were_cut(rows: Any, cuts: list[int]) -> None:
    samples = np.array([[(row >> bit) & 1 for bit in range(3)] for row, _ in rows], dtype=np.int8)
    times = np.array([count for _, count in rows])

    def part(first: int, end: int) -> AnnealingSamples:
        ours = samples[first:end]
        return AnnealingSamples.counted(BINARY, ours, MODEL.energies(ours), times[first:end])

    bounds = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    pieces = [
        (Piece(pub=0, first_point=0, end_point=1, first_shot=first, end_shot=end), part(first, end))
        for first, end in pairwise(bounds)
    ]
    whole = part(0, len(rows))
    (merged,) = KIND.merge(pieces[::-1], lambda: 1 // 0)
    assert merged == whole
    assert merged.reads == times.sum()
    assert merged.energies[0] == MODEL.energies(samples).min()
    assert KIND.unpack_result(*KIND.pack_result([merged])) == [merged]


def test_a_circuit_machine_takes_no_models() -> None:
    from backends.validate import check_fits

    with pytest.raises(PayloadRejected, match=naming("annealing", "sampler", "annealer")):
        check_fits(AnnealingPayload.coerce([MODEL], reads=5), fake.describe({}))


def test_couplers_are_checked_where_the_site_does_not_embed() -> None:
    from dataclasses import replace

    target = replace(
        fake.describe({}), payload_kinds=frozenset({"annealing"}), num_qubits=3, coupling=((1, 0),)
    )
    payload = AnnealingPayload.coerce([MODEL], reads=5)
    with pytest.raises(PayloadRejected, match=naming(1, 2)):
        KIND.check(payload, target)
    KIND.check(payload, replace(target, site_transpiles=True))
    KIND.check(payload, replace(target, coupling=((0, 1), (1, 2))))
    with pytest.raises(PayloadRejected, match=naming(2)):
        KIND.check(payload, replace(target, coupling=((0, 1), (1, 2)), unusable_qubits=(2,)))
    with pytest.raises(PayloadRejected, match=naming(3, 2)):
        KIND.check(payload, replace(target, num_qubits=2))
