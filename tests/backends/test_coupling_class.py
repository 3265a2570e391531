"""The coupling class of a QPU: what backends state, and that it crosses borders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backends import registry
from backends.coupling_class import CLASSES, is_met
from backends.targets import target_from_json, target_to_json
from tests.child.awkward import opened


def test_a_closer_class_meets_a_looser_one() -> None:
    for place, needed in enumerate(CLASSES):
        met = [is_met(stated, needed) for stated in CLASSES]
        assert met == [False] * place + [True] * (len(CLASSES) - place)
        assert is_met(None, needed) is None


@pytest.mark.parametrize(
    ("backend", "options", "stated"),
    [
        ("aer", {}, "interactive"),
        ("aer", {"profile": "vlq"}, "interactive"),
        ("fake", {}, "interactive"),
        ("rydberg", {}, "interactive"),
        (
            "iqm",
            {"url": "http://localhost:1", "profile": "helmi", "token": "t" * 20},
            "interactive",
        ),
    ],
)
def test_backends_state_their_class(backend: str, options: dict[str, Any], stated: str) -> None:
    assert registry.describe(backend, options).coupling_class == stated
    assert registry.coupling_class(backend, options) == stated


@pytest.mark.parametrize(
    ("backend", "options", "stated"),
    [
        ("ibm", {"device": "ibm_fez"}, "batch"),
        ("ibm", {"device": "ibm_fez", "session_s": 600}, "interactive"),
        ("ibm", {"device": "fake_fez"}, "interactive"),
        ("braket", {"arn": "arn:aws:braket:::device/qpu/x"}, "batch"),
        ("braket", {}, "interactive"),
        ("annealing", {"solver": "Advantage"}, "batch"),
        ("annealing", {}, "interactive"),
        ("aqt", {"workspace": "w"}, "batch"),
        ("aqt", {}, "interactive"),
        ("iqm", {"access": "staged"}, "batch"),
    ],
)
def test_the_class_of_a_qpu_is_known_before_it_is_asked(
    backend: str, options: dict[str, Any], stated: str
) -> None:
    assert registry.coupling_class(backend, options) == stated


def test_the_class_crosses_the_borders_of_processes_and_networks(tmp_path: Path) -> None:
    for stated in (*CLASSES, None):
        target = registry.describe("fake", {"coupling_class": stated})
        again = target_from_json(json.loads(json.dumps(target_to_json(target))))
        assert again.coupling_class == stated
    child = opened(tmp_path, fake={"coupling_class": "realtime"})
    try:
        assert child.target().coupling_class == "realtime"
    finally:
        child.close()
    old = target_to_json(target)
    del old["coupling_class"]  # of a broker that does not know of it
    assert target_from_json(old).coupling_class is None
    with pytest.raises(ValueError, match="interactive"):
        target_from_json({**old, "coupling_class": "quick"})
