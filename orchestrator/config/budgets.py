"""Budgets as users write them: an amount and the unit of a QPU's bill."""

from __future__ import annotations

import math
from collections.abc import Iterable

from orchestrator.config.environment import budgets_from_environment
from orchestrator.config.errors import ConfigError

__all__ = ["budgets_of", "budgets_of_environment"]


def budgets_of(texts: Iterable[str]) -> dict[str, float | None]:
    """Read budgets by unit; ``none billed-s`` is no limit, of two in one unit the last counts.

    Raises ``ConfigError``.

    >>> budgets_of(["10 billed-s", "none qpu-s"])
    {'billed-s': 10.0, 'qpu-s': None}
    """
    return dict(_budget(text) for text in texts)


def budgets_of_environment() -> dict[str, float | None]:
    """Read the budgets that ``HPCQC_BUDGET`` holds. Raises ``ConfigError``."""
    return budgets_of(budgets_from_environment())


def _budget(text: str) -> tuple[str, float | None]:
    amount, _, unit = text.strip().partition(" ")
    unit = unit.strip()
    try:
        value = None if amount == "none" else float(amount)
    except ValueError:
        value = -1.0
    if not unit or (value is not None and not (math.isfinite(value) and value >= 0)):
        raise ConfigError(
            f"budget {text!r}; give an amount and its unit, such as '10 billed-s', or "
            "'none billed-s' for no limit"
        )
    return unit, value
