"""Blocks of points and shots: all work once, in equal shares, and the same counts however cut."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter

from backends.aer import create
from backends.aer.blocks import PubLoad, divide, shot_blocks
from backends.aer.methods import choose_method, density_is_cheaper, draws_each_shot, traits_of
from backends.payloads import EstimatorPayload, SamplerPayload
from tests.patience import PATIENCE_S


def random_loads(rng):
    return [
        PubLoad(
            points=rng.randint(1, 40),
            shots=shot_blocks(rng.choice([1, 7, 128, 129, 300, 5000])),
            is_drawn=True,
            seed=rng.randrange(2**63),
            seconds=rng.choice([0.0, 0.01, 1.0, 30.0]),
        )
        for _ in range(rng.randint(1, 6))
    ]


def seeds_of_shots(loads, parts):
    """The seed of each point and shot block, however the points are grouped."""
    found = {}
    for blocks in divide(loads, parts):
        assert blocks
        for block in blocks:
            for point in range(block.first_point, block.end_point):
                key = (block.pub, point, block.first_shot, block.end_shot)
                assert key not in found
                found[key] = (block.seed + 2113 * (point - block.first_point)) % 2**63
    return found


@pytest.mark.parametrize("dice", range(40))
def test_every_point_and_shot_runs_once_with_the_same_seed_in_any_number_of_parts(dice):
    rng = random.Random(dice)
    loads = random_loads(rng)
    alone = seeds_of_shots(loads, 1)
    assert len(alone) == sum(load.pieces for load in loads)
    assert len(set(alone.values())) == len(alone)
    for parts in (2, 3, 8):
        assert seeds_of_shots(loads, parts) == alone


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_take_about_equally_long(parts):
    loads = [
        PubLoad(points=20, shots=shot_blocks(500), is_drawn=True, seed=1, seconds=9.0),
        PubLoad(points=1, shots=shot_blocks(3000), is_drawn=True, seed=2, seconds=3.0),
    ]
    piece_s = max(load.seconds / load.pieces for load in loads)
    divided = divide(loads, parts)
    assert len(divided) == parts
    for blocks in divided:
        part_s = sum(
            (block.end_point - block.first_point)
            * loads[block.pub].seconds
            / loads[block.pub].pieces
            for block in blocks
        )
        assert part_s == pytest.approx(12.0 / parts, abs=1.5 * piece_s)


@pytest.mark.parametrize("shots", [1, 127, 128, 129, 8192, 10**6])
def test_blocks_of_shots_are_equal_and_shorter_than_the_distance_between_points(shots):
    blocks = shot_blocks(shots)
    lengths = [end - first for first, end in blocks]
    assert blocks[0][0] == 0
    assert blocks[-1][1] == shots == sum(lengths)
    assert max(lengths) - min(lengths) <= 1
    assert max(lengths) < 2113


def test_points_that_are_cut_off_go_on_with_the_same_seeds():
    """The broker cuts points off a PUB and gives the rest the seed of its first point."""
    whole = PubLoad(points=9, shots=shot_blocks(400), is_drawn=True, seed=77, seconds=1.0)
    rest = replace(whole, points=5, seed=77 + 2113 * 4)
    of_whole, of_rest = seeds_of_shots([whole], 2), seeds_of_shots([rest], 2)
    for (pub, point, first, end), seed in of_rest.items():
        assert of_whole[pub, point + 4, first, end] == seed


@pytest.mark.parametrize("dice", range(20))
def test_no_shot_of_one_seed_is_a_shot_of_a_near_one(dice):
    """Aer gives shot k of a block the block's seed plus k."""
    first = random.Random(dice).randrange(2**62)
    taken = set()
    for seed in (first, first + 1, first + 2, first + 300):
        load = PubLoad(points=3, shots=shot_blocks(400), is_drawn=True, seed=seed, seconds=1.0)
        of_shots = {
            block_seed + shot
            for (_, _, start, end), block_seed in seeds_of_shots([load], 2).items()
            for shot in range(end - start)
        }
        assert len(of_shots) == 3 * 400
        assert not taken & of_shots
        taken |= of_shots


def native(points_too=True):
    circuit, theta = QuantumCircuit(11), Parameter("theta")
    for qubit in range(11):
        circuit.r(theta if points_too else 0.3, 0.2, qubit)
    for qubit in range(0, 10, 2):
        circuit.cz(qubit, qubit + 1)
        circuit.r(theta if points_too else 0.9, 1.2, qubit)
    circuit.measure_all()
    return circuit


@pytest.fixture(scope="module")
def dense_site(tmp_path_factory):
    file = tmp_path_factory.mktemp("profile") / "bench.toml"
    file.write_text(
        """
name = "bench"
title = "eleven qubits"
[device]
qubits = 11
coupling = "all"
[gates]
r = { duration_s = 40e-9, error = 0.01 }
cz = { duration_s = 80e-9, error = 0.05 }
[coherence]
t1_s = 20e-6
t2_s = 30e-6
[readout]
zero_as_one = 0.02
one_as_zero = 0.03
[limits]
payloads = ["sampler", "estimator"]
precision = "exact"
[calibration]
taken_at = 2026-11-01T00:00:00Z
"""
    )
    return str(file)


def run(folder, payload, options):
    backend = create(options, state_dir=folder)
    try:
        task = backend.start(backend.acquire(), payload, "task")
        backend.wait(task, PATIENCE_S)
        return backend.result(task)
    finally:
        backend.close()


def test_neighbouring_seeds_draw_other_trajectories(tmp_path, dense_site):
    def bits(seed):
        payload = SamplerPayload.coerce([(native(), [1.5], 100)], seed=seed)
        options = {"profile": dense_site, "method": "statevector"}
        drawn = run(tmp_path / str(seed), payload, options).native[0].data.meas
        return Counter(drawn.get_bitstrings())

    assert (bits(5) & bits(6)).total() < 20


@pytest.mark.slow
def test_equal_seeds_give_equal_counts_with_one_two_and_three_workers(
    tmp_path, dense_site, monkeypatch
):
    angles = np.linspace(0.2, 2.8, 3)[:, np.newaxis]
    payload = SamplerPayload.coerce(
        [(native(), angles, 300), (native(points_too=False), None, 500)], seed=5
    )
    found = []
    for workers in (1, 2, 3):
        monkeypatch.setattr("backends.aer.backend.usable_cores", lambda n=workers: n)
        folder = tmp_path / str(workers)
        folder.mkdir()
        result = run(folder, payload, {"profile": dense_site, "processes": workers})
        assert result.metadata["method"] == ["statevector"] * 2
        assert len(result.metadata["workers"]) == workers
        found.append([pub.data.meas.array.tolist() for pub in result.native])
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
def test_a_seed_that_was_drawn_gives_the_same_counts_when_it_is_asked_for(tmp_path, dense_site):
    pub = (native(points_too=False), None, 300)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    drawn = run(tmp_path / "a", SamplerPayload.coerce([pub]), {"profile": dense_site})
    (seed,) = drawn.metadata["seed"]
    again = run(tmp_path / "b", SamplerPayload.coerce([pub], seed=seed), {"profile": dense_site})
    assert again.native[0].data.meas.get_counts() == drawn.native[0].data.meas.get_counts()


@pytest.mark.slow
def test_points_of_one_estimator_pub_are_spread_and_keep_their_values(tmp_path, monkeypatch):
    circuit, theta = QuantumCircuit(2), Parameter("theta")
    circuit.ry(theta, 0)
    circuit.cx(0, 1)
    angles = np.linspace(0.0, 3.0, 60).reshape(3, 20, 1)
    payload = EstimatorPayload.coerce([(circuit, [["ZI"], ["XX"], ["ZZ"]], angles)])
    monkeypatch.setattr("backends.aer.placement.SPLIT_S", 1e-6)
    monkeypatch.setattr("backends.aer.backend.usable_cores", lambda: 3)
    result = run(tmp_path, payload, {"processes": 3})
    assert len(result.metadata["workers"]) == 3
    flat = angles[..., 0]
    assert result.native[0].data.evs == pytest.approx(
        np.array([np.cos(flat[0]), np.sin(flat[1]), np.ones(20)]), abs=1e-9
    )


@pytest.mark.slow
def test_a_density_matrix_and_trajectories_sample_one_distribution(tmp_path, dense_site):
    circuit = QuantumCircuit(3)
    for qubit in range(3):
        circuit.r(1.1, 0.2 + qubit, qubit)
    for _ in range(4):
        circuit.cz(0, 1)
        circuit.r(0.7, 0.1, [0, 1, 2])
        circuit.cz(1, 2)
    circuit.measure_all()
    shots, counts = 20_000, []
    for method in ("density_matrix", "statevector"):
        (tmp_path / method).mkdir()
        payload = SamplerPayload.coerce([(circuit, None, shots)], seed=8)
        result = run(tmp_path / method, payload, {"profile": dense_site, "method": method})
        counts.append(result.native[0].data.meas.get_counts())
    for outcome in counts[0]:
        spread = (2 * counts[0][outcome]) ** 0.5
        assert abs(counts[0][outcome] - counts[1].get(outcome, 0)) < 5 * spread + 5


def test_few_shots_are_drawn_one_by_one_and_many_from_a_density_matrix():
    for width in range(1, 12):
        cheaper = [density_is_cheaper(width, shots) for shots in (1, 100, 10_000, 10**6)]
        assert cheaper == sorted(cheaper)
    assert density_is_cheaper(5, 2000)
    assert not density_is_cheaper(11, 300)
    assert not density_is_cheaper(13, 10**9)  # it would not fit where others have less memory


def test_what_goes_on_after_a_measurement_is_not_evolved_as_a_density_matrix_for_each_shot():
    again = QuantumCircuit(3, 1)
    again.h(0)
    again.measure(0, 0)
    again.h(0)
    ends = QuantumCircuit(3, 1)
    ends.h(0)
    ends.measure(0, 0)
    ends.barrier()
    for circuit, method in ((again, "statevector"), (ends, "density_matrix")):
        traits = traits_of(circuit)
        assert choose_method("automatic", traits, noisy=True, exact=False, shots=5000) == method
        assert draws_each_shot(method, traits, noisy=True) is (circuit is again)
    assert draws_each_shot("stabilizer", traits_of(again), noisy=False)
    assert not draws_each_shot("stabilizer", traits_of(ends), noisy=False)
