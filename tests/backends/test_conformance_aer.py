"""Aer, ideal and wearing profiles, passes the suite that third parties' backends must pass."""

from __future__ import annotations

from backends.aer import create
from backends.profiles import load_profile
from backends.testing import BackendConformance


class TestIdealAer(BackendConformance):
    @classmethod
    def make_backend(cls, state_dir):
        return create({}, state_dir=state_dir)


class TestAerWearingProfile(BackendConformance):
    """Trapped ions: all to all, native gates only, 200 shots a task."""

    noise = 0.15
    profile = load_profile("piast-q")
    examples = 10

    @classmethod
    def make_backend(cls, state_dir):
        return create({"profile": "piast-q"}, state_dir=state_dir)


class TestAerWearingExactProfile(BackendConformance):
    """A lattice whose site transpiles, with expectation values from a density matrix."""

    noise = 0.2
    profile = load_profile("euro-q-exa")
    examples = 10

    @classmethod
    def make_backend(cls, state_dir):
        options = {"profile": "euro-q-exa", "precision": "exact"}
        return create(options, state_dir=state_dir)
