"""Simulated annealing, in this process and across the border."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import registry
from backends.api import Backend, Result, TaskFailed, TaskState
from backends.child.environment import Environment
from backends.payloads import AnnealingPayload, BinaryQuadraticModel
from backends.plugins import PluginUnusable
from backends.testing import BackendConformance
from backends.testing.annealing import random_model
from tests.errors import naming

pytest.importorskip("dwave.samplers", reason="the annealing extra is not installed")


class TestAnnealing(BackendConformance):
    takes = frozenset({"annealing"})
    finish_s = 60.0

    @classmethod
    def make_backend(cls, state_dir: Path) -> Any:
        return registry.create("annealing", {}, state_dir=state_dir)


class TestAnnealingInChild(BackendConformance):
    takes = frozenset({"annealing"})
    finish_s = 60.0

    @classmethod
    def make_backend(cls, state_dir: Path) -> Any:
        where = Environment.current()
        return registry.create("annealing", {}, state_dir=state_dir, environment=where)


def annealed(backend: Backend, payload: AnnealingPayload, tag: str) -> Result:
    session = backend.acquire()
    task = backend.start(session, payload, tag)
    assert backend.wait(task, 60.0) is TaskState.COMPLETED  # type: ignore[attr-defined]
    backend.release(session)
    return backend.result(task)


@pytest.fixture
def annealer(tmp_path: Path) -> Any:
    backend = registry.create("annealing", {}, state_dir=tmp_path)
    yield backend
    backend.close()


def test_a_seed_decides_the_samples(annealer: Backend) -> None:
    model = random_model(np.random.default_rng(3), 30, "SPIN")
    models = [model, model]
    runs = [
        annealed(annealer, AnnealingPayload.coerce(models, reads=50, seed=seed), f"t{i}").native
        for i, seed in enumerate((2**62, 2**62, 7))
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert runs[0][0] != runs[0][1], "equal problems of one job get different samples"


def test_a_ring_of_six_with_a_weak_field_is_solved(annealer: Backend) -> None:
    couplings = {(i, (i + 1) % 6): 0.5 for i in range(6)}
    model = BinaryQuadraticModel.of([0.0] * 6, couplings, vartype="SPIN")
    (found,) = annealed(annealer, AnnealingPayload.coerce([model], reads=100), "ring").native
    assert found.energies[0] == -3.0
    assert {tuple(row) for row in found.samples[:2].tolist()} == {(1, -1) * 3, (-1, 1) * 3}


def test_samples_that_fit_into_no_memory_are_refused(annealer: Backend) -> None:
    model = BinaryQuadraticModel.of([1.0] * 10_000)
    payload = AnnealingPayload.coerce([model] * 3, reads=10_000)
    task = annealer.start(annealer.acquire(), payload, "large")
    assert annealer.wait(task, 60.0) is TaskState.FAILED  # type: ignore[attr-defined]
    with pytest.raises(TaskFailed, match=naming(300_000_000, 200_000_000)):
        annealer.result(task)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sweep": 5}, ["sweep", "sweeps"]),
        ({"sweeps": 0}, ["sweeps", 0]),
        ({"sweeps": 1.5}, ["sweeps", 1.5]),
        ({"sweeps": True}, ["sweeps", True]),
    ],
)
def test_options_are_checked(options: dict[str, Any], named: list[Any], tmp_path: Path) -> None:
    with pytest.raises(PluginUnusable, match=naming(*named)):
        registry.create("annealing", options, state_dir=tmp_path)
