"""QPUs behind another broker, a real one, pass the suite that third parties' backends must pass."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar

import pytest

from backends import registry
from backends.child.environment import Environment
from backends.hpcqc import create
from backends.lowering import NativeCompiler
from backends.profiles import load_profile
from backends.testing import BackendConformance
from backends.testing.agreement import counts_follow_probabilities, kinds_for
from orchestrator.transpile.moves import insert_moves
from tests.service.conftest import SITE, Service

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Serve the other site's broker; return what reaches it."""
    folder = tmp_path_factory.mktemp("far")
    site, state = folder / "far.toml", folder / "state"
    state.mkdir()
    site.write_text(SITE.format(options="run_s = 0.0", rules="", broker=""))
    service = Service(state=state, site=site).start()
    _, token = service.tokens.add("near", "user", ["partners"], now=datetime.now(UTC))
    yield {"url": service.url, "token": token}
    service.stop()


class TestIdeal(BackendConformance):
    """Aer without noise."""

    takes = frozenset({"sampler"})
    qpu = "aer"
    examples = 5
    options: ClassVar = {}

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def far(cls, served):
        cls.options = {**served, "qpu": cls.qpu}

    @classmethod
    def make_backend(cls, state_dir):
        return create(cls.options, state_dir=state_dir)


class TestStar(TestIdeal):
    """VLQ's profile: noise, MOVEs through a resonator, a calibration for each job."""

    qpu = "vlq"
    noise = 0.25
    profile = load_profile("vlq")

    def native(self, circuit, target):
        native, layout = NativeCompiler(target).compile(circuit)
        return insert_moves(native, target.resonator), layout


def test_random_circuits_come_right_from_another_process(served, tmp_path) -> None:
    options, here = {**served, "qpu": "aer"}, Environment.current()
    qpu = registry.create("hpcqc", options, state_dir=tmp_path, environment=here)
    trial = TestIdeal().trial(qpu, qpu.acquire())
    counts_follow_probabilities(trial, 5, kinds_for(trial.target))
    qpu.close()
