"""The suite that says when a backend is right; needs pytest."""

from backends.testing.conformance import BackendConformance
from backends.testing.kinds import PayloadCases
from backends.testing.physics import NotApplicable, Trial

__all__ = ["BackendConformance", "NotApplicable", "PayloadCases", "Trial"]
