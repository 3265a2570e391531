"""Thousands of small units inside one stage: π from points thrown at a square.

hpcqc run examples/fan_out.py -p units=2000
"""

import random
from typing import Any

from prefect import flow

from hpcqc import classical, fan_out

THROWS = 1000


def hits(seed: int) -> int:
    """One unit; its seed makes it the same whenever and wherever it runs."""
    dice = random.Random(seed)
    return sum(dice.random() ** 2 + dice.random() ** 2 < 1 for _ in range(THROWS))


@classical
def estimate(units: int) -> float:
    return 4 * sum(fan_out(hits, range(units), retries=1)) / (units * THROWS)


@flow
def pi(units: int = 500) -> dict[str, Any]:
    value = estimate(units)
    return {"pi": value, "summary": [f"π is about {value:.4f}, from {units * THROWS} throws"]}
