"""Options of QDMI devices, and the packages of their environment; nothing of a vendor is needed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from backends.plugins import PluginUnusable
from backends.qdmi.factory import create
from tests.errors import naming


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"devise": "x"}, ["devise", "device"]),
        ({"qubits": 0}, ["qubits", 0]),
        ({"qubits": True}, ["qubits", True]),
        ({"token": 5}, ["token"]),
        ({"device": ""}, ["device"]),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, named) -> None:
    with pytest.raises(PluginUnusable, match=naming(*named)):
        create(options, state_dir=tmp_path)


def test_the_extra_is_what_the_environment_holds() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    extra = project["project"]["optional-dependencies"]["qdmi"]
    assert tuple(extra) == create.packages.requirements
