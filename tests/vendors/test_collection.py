"""A collection of circuits, sampled on rehearsed sites, gives what the noise of their devices makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from qiskit import QuantumCircuit
from scipy.stats import binom

from backends import registry
from backends.circuits import FrozenCircuit
from backends.lowering import NativeCompiler
from backends.profiles import load_profile
from backends.testing.reference import ProfileNoise, distribution
from hpcqc import sample
from orchestrator.application.circuit_files import read_circuit
from orchestrator.transpile import Transpiler
from tests.rehearsed import rehearsed

pytestmark = pytest.mark.slow

COLLECTION = sorted(Path(__file__).with_name("collection").glob("*.qasm"))
SHOTS = 1000
# 8 circuits, 3 sites, some 20 outcomes each: a right site fails once in ten thousand runs.
SMALLEST_CHANCE = 1e-7


def predicted(circuit: QuantumCircuit, site: str) -> dict[str, float]:
    """Return the probability of each outcome on a site's device, noise included, without Aer."""
    target = registry.describe("aer", {"profile": site})
    native = Transpiler().transpile(FrozenCircuit.of(circuit), target).circuit.circuit
    if target.site_transpiles:
        native, _ = NativeCompiler(target).compile(native)
    found: dict[str, float] = {}
    for value, chance in distribution(native, ProfileNoise(load_profile(site))).items():
        name = outcome(native, value)
        found[name] = found.get(name, 0.0) + chance
    return found


def outcome(circuit: QuantumCircuit, value: int) -> str:
    """Return the bits of all registers as counts have them, of the last register first."""
    bits = [[value >> circuit.find_bit(bit).index & 1 for bit in reg] for reg in circuit.cregs]
    return " ".join("".join(map(str, reversed(register))) for register in reversed(bits))


def chance_of(counts: Mapping[str, int], chances: Mapping[str, float]) -> float:
    """Return how probable the count is that is furthest from what its probability gives."""
    shots = sum(counts.values())
    tails = []
    for name in counts.keys() | chances.keys():
        count, chance = counts.get(name, 0), min(chances.get(name, 0.0), 1.0)
        tails += [binom.cdf(count, shots, chance), binom.sf(count - 1, shots, chance)]
    return min(tails)


@pytest.mark.parametrize("site", ["vlq", "euro-q-exa", "ibex-q1"])
def test_counts_are_those_that_the_noise_predicts(site, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = {}
    with rehearsed(site, tmp_path / "site") as server:
        for path in COLLECTION:
            circuit = read_circuit(path)
            found = sample(path, shots=SHOTS, site=server.rehearsal.site_file)
            assert list(found.registers) == [reg.name for reg in reversed(circuit.cregs)]
            chance = chance_of(found.counts, predicted(circuit, site))
            if chance < SMALLEST_CHANCE:
                wrong[path.stem] = chance, found.counts
        assert set(server.meter()["starts"].values()) == {1}
    assert len(COLLECTION) == 8
    assert not wrong
