"""Kills under load: no job is lost or run twice, and every client gets its results."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.service.campaign import Campaign, budgets_of, check, jobs_of

CALLS = 40
KILLS = 12


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_at_random_moments_cost_only_time(tmp_path: Path) -> None:
    with Campaign(tmp_path, CALLS, random.Random(3)) as campaign:
        whole = campaign.start_service("whole")
        expected = campaign.run(whole, 0)
        assert whole.stop() == 0
        killed = campaign.start_service("killed")
        assert campaign.run(killed, KILLS) == expected
        assert campaign.kills.total() >= KILLS / 2
        jobs, budgets = jobs_of(killed), budgets_of(killed)
        assert killed.stop() == 0
    check(killed, jobs, CALLS, budgets)
