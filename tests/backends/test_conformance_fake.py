"""The fake QPU passes the suite that third parties' backends must pass."""

from __future__ import annotations

from backends.fake import create
from backends.testing import BackendConformance


class TestFake(BackendConformance):
    @classmethod
    def make_backend(cls, state_dir):
        return create({"queue_s": 0.01, "run_s": 0.02, "max_shots": 5000}, state_dir=state_dir)


class TestDurableFake(BackendConformance):
    @classmethod
    def make_backend(cls, state_dir):
        options = {"durable": True, "max_concurrent_tasks": None, "payload_kinds": ["sampler"]}
        return create(options, state_dir=state_dir)
