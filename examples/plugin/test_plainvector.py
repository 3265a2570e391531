"""The QPU passes the suite that every backend of hpcqc must pass."""

from pathlib import Path

from plainvector import PlainVector, create

from backends.api import Target
from backends.testing import BackendConformance


class TestPlainVector(BackendConformance):
    takes = frozenset({"sampler"})

    @classmethod
    def make_backend(cls, state_dir: Path) -> PlainVector:
        return create({}, state_dir=state_dir)

    @classmethod
    def describe(cls) -> Target:
        return create.describe({})
