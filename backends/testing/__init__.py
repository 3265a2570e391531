"""The suite that says when a backend is right; needs pytest."""

from backends.testing.conformance import BackendConformance

__all__ = ["BackendConformance"]
