"""Aer, ideal and wearing profiles, passes the suite that third parties' backends must pass."""

from __future__ import annotations

import pytest

from backends.aer import create
from backends.testing import BackendConformance


class TestIdealAer(BackendConformance):
    @pytest.fixture(scope="class")
    def backend_factory(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("aer")
        return lambda: create({}, state_dir=folder)


class TestAerWearingProfile(BackendConformance):
    """Trapped ions: all to all, native gates only, 200 shots a task."""

    noise = 0.15

    @pytest.fixture(scope="class")
    def backend_factory(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("piast-q")
        return lambda: create({"profile": "piast-q"}, state_dir=folder)


class TestAerWearingExactProfile(BackendConformance):
    """A lattice whose site transpiles, with expectation values from a density matrix."""

    noise = 0.2

    @pytest.fixture(scope="class")
    def backend_factory(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("euro-q-exa")
        options = {"profile": "euro-q-exa", "precision": "exact"}
        return lambda: create(options, state_dir=folder)
