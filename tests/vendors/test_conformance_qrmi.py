"""A rehearsed IQM Server behind qrmi, in an environment of its own, passes the backends' suite."""

from __future__ import annotations

from typing import ClassVar

import pytest

from backends import registry
from backends.child.environment import Environment
from backends.lowering import NativeCompiler
from backends.profiles import load_profile
from backends.testing import BackendConformance
from orchestrator.transpile.moves import insert_moves
from tests.rehearsed import rehearsed
from tests.vendors.environments import interpreter_or_skip

pytestmark = [pytest.mark.slow, pytest.mark.vendor]


class TestStar(BackendConformance):
    """VLQ, through QRMI."""

    takes = frozenset({"sampler"})
    noise = 0.25
    profile = load_profile("vlq")
    examples = 5
    options: ClassVar = {}
    environment: ClassVar[Environment]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def server(cls, tmp_path_factory, request):
        cls.environment = Environment(
            interpreter=str(interpreter_or_skip(request.config.cache, "qrmi==0.26.4"))
        )
        with rehearsed("vlq", tmp_path_factory.mktemp("vlq")) as running:
            cls.options = {
                "url": running.rehearsal.url,
                "resource": "vlq",
                "token": running.options["token"],
            }
            yield running

    @classmethod
    def make_backend(cls, state_dir):
        return registry.create(
            "qrmi", cls.options, state_dir=state_dir, environment=cls.environment
        )

    def native(self, circuit, target):
        native, layout = NativeCompiler(target).compile(circuit)
        return insert_moves(native, target.resonator), layout
