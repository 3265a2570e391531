"""What the conformance suite asks of a backend that takes annealing-toy payloads."""

import numpy as np
from annealing import AnnealingPayload

from backends.testing import PayloadCases


def smallest(target, native, shots):
    return AnnealingPayload(problems=(((0, 1, 1.0),),), reads=(shots,))


def lengthy(target, native):
    chain = tuple((i, i + 1, (-1.0) ** i) for i in range(15))
    return AnnealingPayload(problems=(chain,), reads=(target.max_shots or 1000,))


def energies_belong_to_their_spins(trial):
    problem = ((0, 1, 1.0), (1, 2, -0.5))
    result = trial.run(AnnealingPayload(problems=(problem,), reads=(20,)))
    (samples,) = result.native
    assert samples.spins.shape == (20, 3)
    expected = sum(s * samples.spins[:, i] * samples.spins[:, j] for i, j, s in problem)
    np.testing.assert_allclose(samples.energies, expected)


CASES = PayloadCases(smallest=smallest, lengthy=lengthy, checks=(energies_belong_to_their_spins,))
