"""Aer's results of many random circuits, by every method and on every shipped profile."""

from __future__ import annotations

import itertools
import os

import pytest

from backends.aer import create
from backends.circuits import FrozenCircuit
from backends.profiles import load_profile, shipped
from backends.testing.agreement import counts_follow_probabilities, kinds_for, values_are_exact
from backends.testing.physics import Trial
from backends.testing.random_circuits import Kinds
from orchestrator.transpile import Transpiler
from tests.patience import PATIENCE_S

# A minute in all; `make test-all` asks for 2 000, which take most of an hour.
EXAMPLES = int(os.environ.get("HPCQC_TEST_EXAMPLES", "40"))
SAMPLED_EXAMPLES = max(1, EXAMPLES // 10)
METHODS = {
    "automatic": None,
    "density_matrix": None,
    "statevector": Kinds(),
    "matrix_product_state": Kinds(),
    "stabilizer": Kinds(clifford=True),
}
SAMPLED_METHODS = {
    "automatic": None,
    "density_matrix": None,
    "statevector": None,
    "matrix_product_state": None,
    "stabilizer": Kinds(clifford=True),  # it refuses what it would have to look into
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture
def trial(tmp_path):
    """Return what makes the trial of a simulator; on a profile, circuits come as on the device."""
    backends, transpiler, numbers = [], Transpiler(), itertools.count()

    def native(circuit, target):
        made = transpiler.transpile(FrozenCircuit.of(circuit), target)
        frozen, names = made.circuit.circuit, list(circuit.parameters)
        named = dict(zip(frozen.parameters, (names[c] for c in made.columns), strict=True))
        return frozen.assign_parameters(named), made.layout

    def make(**options):
        backend = create(options, state_dir=tmp_path)
        backends.append(backend)
        session = backend.acquire()

        def run(payload):
            task = backend.start(session, payload, f"random-{next(numbers)}")
            backend.wait(task, PATIENCE_S)
            return backend.result(task)

        profile = options.get("profile")
        return Trial(
            target=backend.target(),
            native=native,
            run=run,
            shots=0,
            noise=0.0,
            profile=None if profile is None else load_profile(profile),
        )

    yield make
    for backend in backends:
        backend.close()


@pytest.mark.parametrize("method", METHODS)
def test_exact_values_by_every_method(trial, method):
    ideal = trial(method=method)
    values_are_exact(ideal, EXAMPLES, METHODS[method] or kinds_for(ideal.target))


@pytest.mark.parametrize("profile", shipped())
def test_exact_values_on_every_profile(trial, profile):
    noisy = trial(profile=profile, precision="exact")
    values_are_exact(noisy, EXAMPLES, kinds_for(noisy.target))


@pytest.mark.parametrize("method", SAMPLED_METHODS)
def test_counts_by_every_method(trial, method):
    ideal = trial(method=method)
    kinds = SAMPLED_METHODS[method] or kinds_for(ideal.target)
    counts_follow_probabilities(ideal, SAMPLED_EXAMPLES, kinds)


@pytest.mark.parametrize("profile", shipped())
@pytest.mark.parametrize("method", ["automatic", "statevector"])
def test_counts_on_every_profile(trial, profile, method):
    noisy = trial(profile=profile, method=method)
    counts_follow_probabilities(noisy, SAMPLED_EXAMPLES, kinds_for(noisy.target))
