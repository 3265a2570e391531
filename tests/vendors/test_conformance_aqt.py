"""QPUs of AQT pass the suite that third parties' backends must pass, over HTTP."""

from __future__ import annotations

from typing import ClassVar

import pytest

from backends.aqt import create
from backends.profiles import load_profile
from backends.testing import BackendConformance
from tests.rehearsed import rehearsed

pytestmark = pytest.mark.slow


class TestDirect(BackendConformance):
    """PIAST-Q: direct access, one circuit of 200 shots a task, four connections."""

    takes = frozenset({"sampler"})
    site = "piast-q"
    noise = 0.1
    shots = 200
    profile = load_profile("piast-q")
    options: ClassVar = {}

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def server(cls, tmp_path_factory):
        with rehearsed(cls.site, tmp_path_factory.mktemp(cls.site)) as running:
            cls.options = running.options
            yield running

    @classmethod
    def make_backend(cls, state_dir):
        return create(cls.options, state_dir=state_dir)

    @classmethod
    def describe(cls):
        return create.describe(cls.options)


class TestCloud(TestDirect):
    """IBEX Q1: AQT's cloud, several circuits a job."""

    site = "ibex-q1"
    shots = 1000
    profile = load_profile("ibex-q1")
