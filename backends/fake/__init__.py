"""A QPU that follows a script of delays and faults, for tests of whatever uses a QPU."""

from backends.fake.backend import FakeBackend, create
from backends.fake.script import CALLS, Fault, FaultKind, Script, read_script

__all__ = ["CALLS", "FakeBackend", "Fault", "FaultKind", "Script", "create", "read_script"]
