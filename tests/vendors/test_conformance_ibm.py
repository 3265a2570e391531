"""A device of IBM's service passes the suite that third parties' backends must pass, over HTTP."""

from __future__ import annotations

from typing import ClassVar

import pytest

from backends import registry
from backends.profiles import load_profile
from backends.testing import BackendConformance
from tests.rehearsed import rehearsed

pytest.importorskip("qiskit_ibm_runtime")
pytestmark = [pytest.mark.slow, pytest.mark.vendor]


class TestHeron(BackendConformance):
    takes = frozenset({"sampler"})
    noise = 0.25
    profile = load_profile("ibm-fez")
    examples = 5
    options: ClassVar = {}

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def server(cls, tmp_path_factory):
        with rehearsed("ibm-fez", tmp_path_factory.mktemp("ibm-fez")) as running:
            cls.options = running.options
            yield running

    @classmethod
    def make_backend(cls, state_dir):
        return registry.create("ibm", cls.options, state_dir=state_dir)
