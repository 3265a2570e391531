"""QPUs behind a Warden pass the suite that third parties' backends must pass, over HTTP."""

from __future__ import annotations

from typing import ClassVar

import pytest

from backends.testing import BackendConformance
from backends.warden import create
from tests.rehearsed import rehearsed

pytestmark = pytest.mark.slow


class TestWarden(BackendConformance):
    takes = frozenset({"analog"})
    shots = 2000
    options: ClassVar = {}

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def server(cls, tmp_path_factory):
        with rehearsed("warden", tmp_path_factory.mktemp("warden")) as running:
            cls.options = running.options
            yield running

    @classmethod
    def make_backend(cls, state_dir):
        return create(cls.options, state_dir=state_dir)

    @classmethod
    def describe(cls):
        return create.describe(cls.options)
