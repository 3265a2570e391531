"""What the state machine asks of the shell around it, and what an event led to."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.broker.core import events as ev
from orchestrator.broker.core.budgets import BudgetExhausted
from orchestrator.identity import JobId

__all__ = ["Command", "Effects", "FindTask", "SettleJob", "StartTask", "StopTask"]


@dataclass(frozen=True, slots=True)
class StartTask:
    """Call the backend's ``start`` for a planned task."""

    tag: str


@dataclass(frozen=True, slots=True)
class FindTask:
    """Ask the backend whether the tag was started; adopt it, or start it if it was not."""

    tag: str


@dataclass(frozen=True, slots=True)
class StopTask:
    """Ask the backend to stop the task."""

    tag: str


@dataclass(frozen=True, slots=True)
class SettleJob:
    """The job is final, or uncertain: tell those who wait for it."""

    job: JobId


Command = StartTask | FindTask | StopTask | SettleJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What an event led to. events: to be durable before any of the commands is executed.

    refused: why a job was not accepted; then there is nothing else.
    """

    events: tuple[ev.Event, ...] = ()
    commands: tuple[Command, ...] = ()
    refused: BudgetExhausted | None = None
