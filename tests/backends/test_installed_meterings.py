"""A metering formula of another package is named in a profile, bills, and travels."""

from __future__ import annotations

import json

import pytest

from backends import registry
from backends.metering import formula_class
from backends.plugins import PluginUnusable
from backends.profiles import ProfileError, load_profile
from backends.targets import target_from_json, target_to_json
from tests.backends.profile_files import profile_with
from tests.errors import naming
from tests.packages import addition, installed_package

POINTS = {"shot-price": "shotprice:ShotPrice", "misnamed": "shotprice:ShotPrice"}
USE = {"qpu_seconds": 2.0, "shots": 1000, "num_qubits": 5}


@pytest.fixture
def package(tmp_path):
    formula_class.cache_clear()
    place = tmp_path / "packages"
    place.mkdir()
    group = {"hpcqc.meterings": POINTS}
    with installed_package(place, "hpcqc-shotprice", addition("shotprice"), group):
        yield place
    formula_class.cache_clear()


@pytest.mark.usefixtures("package")
def test_a_profile_names_it_and_the_qpu_bills_by_it(tmp_path) -> None:
    named = profile_with(
        tmp_path, 'kind = "shot-price"\nunit = "credits"\nper_task = 0.3\nper_shot = 1e-4'
    )
    target = registry.describe("aer", {"profile": named})
    charge = target.metering.charge(**USE)
    assert (charge.amount, charge.unit) == (pytest.approx(0.4), "credits")
    again = target_from_json(json.loads(json.dumps(target_to_json(target))))
    assert again.metering == target.metering


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("metering", "words"),
    [
        ('kind = "shot-prize"', ["'shot-prize'", "qpu-seconds", "shot-price"]),
        ('kind = "shot-price"', ["per_task"]),
        ('kind = "shot-price"\nper_task = 1\nper_hour = 2', ["per_hour"]),
        ('kind = "misnamed"\nper_task = 1', ["'misnamed'", "'shot-price'"]),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, metering, words) -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile(profile_with(tmp_path, metering))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_client_without_the_package_reads_the_target(tmp_path, package) -> None:
    named = profile_with(tmp_path, 'kind = "shot-price"\nunit = "credits"\nper_task = 0.3')
    sent = json.dumps(target_to_json(registry.describe("aer", {"profile": named})))
    (next(package.glob("*.dist-info")) / "entry_points.txt").write_text("")
    formula_class.cache_clear()
    read = target_from_json(json.loads(sent)).metering
    assert (read.kind, read.unit) == ("shot-price", "credits")
    with pytest.raises(PluginUnusable, match=naming("shot-price")):
        read.charge(**USE)
    assert target_to_json(target_from_json(json.loads(sent))) == json.loads(sent)


def test_parameters_of_other_formulas_are_no_mistake(tmp_path) -> None:
    """Profiles written when every formula took all parameters are still read."""
    old = profile_with(tmp_path, "gate_time_ratio = 1.0\nper_shot_s = 0.0\nfloor_s = 0.0")
    assert load_profile(old).metering.charge(**USE).amount == 2.0


def test_a_target_of_an_earlier_service_is_read(tmp_path) -> None:
    sent = target_to_json(registry.describe("aer", {"profile": "vlq"}))
    sent["metering"] |= {"gate_time_ratio": 1.0}
    del sent["clock_scale"]
    assert target_from_json(sent).metering == load_profile("vlq").metering
