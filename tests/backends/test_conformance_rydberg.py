"""Simulated QPUs of neutral atoms pass the suite, in this process and in another."""

from __future__ import annotations

from typing import ClassVar

from backends import registry
from backends.child.environment import Environment
from backends.testing import BackendConformance


class TestRydberg(BackendConformance):
    """A machine with traps, a clock and least distances."""

    takes = frozenset({"analog"})
    options: ClassVar = {}
    environment: ClassVar = None
    shots = 2000

    @classmethod
    def make_backend(cls, state_dir):
        return registry.create(
            "rydberg", cls.options, state_dir=state_dir, environment=cls.environment
        )

    @classmethod
    def describe(cls):
        return registry.describe("rydberg", cls.options, environment=cls.environment)


class TestFree(TestRydberg):
    """Without limits, so that phases change between pulses, too."""

    options: ClassVar = {"device": "free", "time_scale": 0}


class TestChild(TestRydberg):
    environment: ClassVar = Environment.current()
