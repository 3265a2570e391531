"""Aer, ideal and wearing profiles, passes the suite that third parties' backends must pass."""

from __future__ import annotations

from typing import ClassVar

from backends.aer import create
from backends.profiles import load_profile
from backends.testing import BackendConformance


class TestIdealAer(BackendConformance):
    takes = frozenset({"sampler"})
    options: ClassVar = {}

    @classmethod
    def make_backend(cls, state_dir):
        return create(cls.options, state_dir=state_dir)

    @classmethod
    def describe(cls):
        return create.describe(cls.options)


class TestAerWearingProfile(TestIdealAer):
    """Trapped ions: all to all, native gates only, 200 shots a task."""

    noise = 0.15
    profile = load_profile("piast-q")
    examples = 10
    options: ClassVar = {"profile": "piast-q"}


class TestAerWearingExactProfile(TestIdealAer):
    """A lattice whose site transpiles, with expectation values from a density matrix."""

    noise = 0.2
    profile = load_profile("euro-q-exa")
    examples = 10
    options: ClassVar = {"profile": "euro-q-exa", "precision": "exact"}
