"""Circuits made to fit a target, and remembered."""

from orchestrator.transpile.transpiler import Transpiled, Transpiler

__all__ = ["Transpiled", "Transpiler"]
