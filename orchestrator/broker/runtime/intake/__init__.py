"""Payloads from strangers: read, checked and encoded anew by processes that may die of it."""

from orchestrator.broker.runtime.intake.pool import Intake, IntakeLimits

__all__ = ["Intake", "IntakeLimits"]
