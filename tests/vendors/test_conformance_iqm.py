"""QPUs behind an IQM Server pass the suite that third parties' backends must pass, over HTTP."""

from __future__ import annotations

from typing import ClassVar

import pytest

from backends import registry
from backends.child.environment import Environment
from backends.iqm import create
from backends.lowering import NativeCompiler
from backends.profiles import load_profile
from backends.testing import BackendConformance
from backends.testing.agreement import counts_follow_probabilities, kinds_for
from orchestrator.transpile.moves import insert_moves
from tests.rehearsed import rehearsed

pytestmark = pytest.mark.slow


class TestStar(BackendConformance):
    """VLQ: MOVEs through a resonator, measurement at the end."""

    takes = frozenset({"sampler"})
    site = "vlq"
    noise = 0.25
    profile = load_profile("vlq")
    examples = 5
    options: ClassVar = {}

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def server(cls, tmp_path_factory):
        with rehearsed(cls.site, tmp_path_factory.mktemp(cls.site)) as running:
            cls.options = running.options
            yield running

    @classmethod
    def make_backend(cls, state_dir):
        return create(cls.options, state_dir=state_dir)

    @classmethod
    def describe(cls):
        return create.describe(cls.options)

    def native(self, circuit, target):
        native, layout = NativeCompiler(target).compile(circuit)
        if target.resonator is None:
            return native, layout
        return insert_moves(native, target.resonator), layout


class TestLattice(TestStar):
    """Euro-Q-Exa: a lattice of 54 qubits, one of them out of use."""

    site = "euro-q-exa"
    profile = load_profile("euro-q-exa")


class TestStagedStar(TestStar):
    """VLQ's two jobs: a description, and circuits staged as files of OpenQASM 3."""

    site = "vlq-staged"
    examples = 2


def test_random_circuits_come_right_from_another_process(tmp_path) -> None:
    with rehearsed("vlq", tmp_path) as server:
        here = Environment.current()
        qpu = registry.create("iqm", server.options, state_dir=tmp_path, environment=here)
        trial = TestStar().trial(qpu, qpu.acquire())
        counts_follow_probabilities(trial, 5, kinds_for(trial.target))
        qpu.close()
        assert sum(server.meter()["starts"].values()) > 0
