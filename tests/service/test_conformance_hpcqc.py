"""QPUs behind another broker, a real one, pass the suite that third parties' backends must pass."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar

import pytest

from backends.hpcqc import create
from backends.lowering import NativeCompiler
from backends.profiles import load_profile
from backends.testing import BackendConformance
from orchestrator.transpile.moves import insert_moves
from tests.service.conftest import SITE, Service

pytestmark = pytest.mark.slow


class TestIdeal(BackendConformance):
    """Aer without noise."""

    takes = frozenset({"sampler"})
    qpu = "aer"
    examples = 5
    options: ClassVar = {}

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def far(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("far")
        site, state = folder / "far.toml", folder / "state"
        state.mkdir()
        site.write_text(SITE.format(options="run_s = 0.0", rules="", broker=""))
        service = Service(state=state, site=site).start()
        _, token = service.tokens.add("near", "user", ["partners"], now=datetime.now(UTC))
        cls.options = {"url": service.url, "token": token, "qpu": cls.qpu}
        yield service
        service.stop()

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
