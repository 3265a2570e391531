"""A policy of another package is chosen in a site file, decides, and is simulated."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from orchestrator.application.simulate import simulate
from orchestrator.broker.runtime.site_rules import check_schedule, check_schedules
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from tests.packages import addition, installed_package

POINTS = {
    "longest-first": "longestfirst:LongestFirst",
    "odd": "longestfirst:not_a_policy",
    "gone": "longestfirst:Missing",
}


@pytest.fixture
def site(tmp_path):
    """Return what loads a site whose QPU has the schedule given."""
    packages = tmp_path / "packages"
    packages.mkdir()

    def load(schedule: str):
        path = tmp_path / "hpcqc.toml"
        path.write_text(f'[qpu.q]\nbackend = "fake"\n[qpu.q.schedule]\n{schedule}\n')
        return load_site(path)

    modules = addition("longestfirst")
    with installed_package(packages, "hpcqc-longest", modules, {"hpcqc.policies": POINTS}):
        yield load


def test_a_site_file_names_it(site) -> None:
    settings = site('policy = "longest-first"\nparameters = { hour_s = 30 }').qpu()
    policy = check_schedule(settings)
    assert (policy.name, policy.hour_s) == ("longest-first", 30)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ('policy = "longest"', ["no policy 'longest'", "fifo", "weighted", "longest-first, odd"]),
        ('policy = "odd"', ["'odd'", "frozen dataclass", "job_score"]),
        ('policy = "gone"', ["'gone' (longestfirst:Missing", "AttributeError"]),
        ('policy = "longest-first"\nparameters = { hours = 1 }', ["'hours'", "'hour_s'"]),
    ],
)
def test_what_cannot_be_used_is_refused_at_the_start(site, schedule, words) -> None:
    with pytest.raises(ConfigError) as caught:
        check_schedules(site(schedule).qpus.values(), datetime(2026, 11, 2, tzinfo=UTC))
    assert all(word in str(caught.value) for word in ["[qpu.q.schedule]", *words])


@pytest.mark.usefixtures("site")
def test_it_is_simulated() -> None:
    study = simulate(
        mix=1, profile="vlq", limit=60, load=0.9, policies=["longest-first:hour_s=1", "shortest"]
    )
    longest, shortest = (one.metrics for one in study.outcomes.values())
    assert longest.wait_s.mean > shortest.wait_s.mean


def test_a_study_of_all_policies_includes_installed_ones(tmp_path) -> None:
    points = {"longest-first": POINTS["longest-first"]}
    with installed_package(
        tmp_path, "hpcqc-longest", addition("longestfirst"), {"hpcqc.policies": points}
    ):
        study = simulate(mix=1, profile="vlq", limit=20)
    assert {"fifo", "longest-first"} <= set(study.outcomes)


@pytest.mark.usefixtures("site")
def test_a_study_of_all_policies_leaves_out_unusable_ones() -> None:
    study = simulate(mix=1, profile="vlq", limit=20)
    assert {"fifo", "longest-first"} <= set(study.outcomes)
    left_out = [note for note in study.study.workload.notes if "left out" in note]
    assert len(left_out) == 2
    assert "'gone'" in " ".join(left_out)
    assert "'odd'" in " ".join(left_out)
