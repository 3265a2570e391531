"""QPUs in Pasqal's cloud pass the suite that third parties' backends must pass, over HTTP."""

from __future__ import annotations

from typing import ClassVar

import pytest

from backends.pasqal_cloud import create
from backends.testing import BackendConformance
from tests.rehearsed import rehearsed

pytestmark = pytest.mark.slow


class TestPasqalCloud(BackendConformance):
    takes = frozenset({"analog"})
    shots = 2000
    options: ClassVar = {}

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def server(cls, tmp_path_factory):
        with rehearsed("pasqal-cloud", tmp_path_factory.mktemp("pasqal")) as running:
            cls.options = running.options
            yield running

    @classmethod
    def make_backend(cls, state_dir):
        return create(cls.options, state_dir=state_dir)

    @classmethod
    def describe(cls):
        return create.describe(cls.options)
