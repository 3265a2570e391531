"""Backends pass the suite from a process of their own, too."""

from __future__ import annotations

from typing import ClassVar

from backends import registry
from backends.child.environment import Environment
from backends.profiles import load_profile
from backends.testing import BackendConformance


class TestFakeInChild(BackendConformance):
    takes = frozenset({"sampler"})
    name: ClassVar = "fake"
    options: ClassVar = {"queue_s": 0.01, "run_s": 0.02, "max_shots": 5000}

    @classmethod
    def make_backend(cls, state_dir):
        return registry.create(
            cls.name, cls.options, state_dir=state_dir, environment=Environment.current()
        )

    @classmethod
    def describe(cls):
        return registry.describe(cls.name, cls.options, environment=Environment.current())


class TestDurableFakeInChild(TestFakeInChild):
    options: ClassVar = {
        "durable": True,
        "max_concurrent_tasks": None,
        "payload_kinds": ["sampler"],
    }


class TestAerInChild(TestFakeInChild):
    name = "aer"
    options: ClassVar = {}


class TestAerWithProfileInChild(TestFakeInChild):
    name = "aer"
    options: ClassVar = {"profile": "piast-q"}
    noise = 0.15
    profile = load_profile("piast-q")
    examples = 10
