"""The fake QPU passes the suite that third parties' backends must pass."""

from __future__ import annotations

import pytest

from backends.fake import create
from backends.testing import BackendConformance


class TestFake(BackendConformance):
    @pytest.fixture(scope="class")
    def backend_factory(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("fake")
        return lambda: create({"queue_s": 0.01, "run_s": 0.02, "max_shots": 5000}, state_dir=folder)


class TestDurableFake(BackendConformance):
    @pytest.fixture(scope="class")
    def backend_factory(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("fake")
        options = {"durable": True, "max_concurrent_tasks": None, "payload_kinds": ["sampler"]}
        return lambda: create(options, state_dir=folder)
