"""`import hpcqc`: one way in, free until used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hpcqc
from tests.errors import naming


@pytest.mark.parametrize("name", hpcqc.__all__)
def test_every_public_name_is_there(name) -> None:
    value = getattr(hpcqc, name)
    assert value.__name__ == name
    assert value.__doc__


def test_names_are_listed_without_being_loaded() -> None:
    code = (
        "import hpcqc, sys\n"
        "assert set(hpcqc.__all__) <= set(dir(hpcqc))\n"
        "print([n for n in sys.modules if n.startswith('orchestrator')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=naming("Sampelr")):
        _ = hpcqc.Sampelr
