"""A device by flat circuits passes the suite, in this process and in a child."""

from __future__ import annotations

from backends.child.backend import open_child
from backends.child.process import Opening
from backends.testing import BackendConformance
from tests.child.awkward import environment
from tests.child.plainflat import create


class TestFlatDevice(BackendConformance):
    takes = frozenset({"sampler"})

    @classmethod
    def make_backend(cls, state_dir):
        return create({}, state_dir=state_dir)


class TestFlatDeviceInChild(BackendConformance):
    takes = frozenset({"sampler"})

    @classmethod
    def make_backend(cls, state_dir):
        opening = Opening(
            backend="plainflat",
            factory="tests.child.plainflat:create",
            options={},
            state_dir=state_dir,
        )
        return open_child(opening, environment())
