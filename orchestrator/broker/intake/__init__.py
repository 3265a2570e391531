"""Payloads from strangers: read, checked and encoded anew by processes that may die of it."""

from orchestrator.broker.intake.checked import CheckedPayload
from orchestrator.broker.intake.pool import Intake, IntakeLimits

__all__ = ["CheckedPayload", "Intake", "IntakeLimits"]
