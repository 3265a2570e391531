"""Networks learn what a linear model cannot, and equal seeds give equal ones."""

import pickle

import numpy as np
import pytest

pytest.importorskip("optax", reason="the learning extra is not installed")

from flows._networks import Training, trained

RNG = np.random.default_rng(1)
INPUTS = RNG.uniform(-1, 1, (600, 3)) * [1.0, 100.0, 0.01] + [5.0, 0.0, 0.0]
IS_ODD = ((INPUTS[:, 0] > 5.0) ^ (INPUTS[:, 1] > 0)).astype(float)


def test_a_network_learns_what_no_linear_model_can_and_does_it_again():
    training = Training(hidden=(16,), epochs=80, batch=64, rate=0.01, seed=3)
    network = trained(INPUTS[:500], IS_ODD[:500], training)
    right = (network(INPUTS[500:])[:, 0] > 0) == IS_ODD[500:]
    assert right.mean() > 0.9
    linear = trained(INPUTS[:500], IS_ODD[:500], Training(hidden=(), epochs=80))
    assert ((linear(INPUTS[500:])[:, 0] > 0) == IS_ODD[500:]).mean() < 0.7
    again = trained(INPUTS[:500], IS_ODD[:500], training)
    stored = pickle.loads(pickle.dumps(network))
    for one in (again, stored):
        np.testing.assert_array_equal(one(INPUTS), network(INPUTS))


def test_a_linear_model_of_values_is_least_squares():
    slopes = np.array([[1.0, -2.0], [0.02, 0.0], [0.0, 30.0]])
    wanted = INPUTS @ slopes + [0.5, 1.0]
    training = Training(hidden=(), loss="values", epochs=150, rate=0.05, decay=0.0)
    np.testing.assert_allclose(trained(INPUTS, wanted, training)(INPUTS), wanted, atol=3e-2)
