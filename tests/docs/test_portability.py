"""A cell of the table of portability is there only where a test is."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.reference.generate import CheckedBackends, pages

HEAD = """
from backends.{backend} import create
from backends.testing import BackendConformance

class TestOne(BackendConformance):
    takes = frozenset({{"sampler"}})
"""


def checks(folder: Path, text: str, backend: str = "iqm") -> set[str]:
    path = folder / "test_it.py"
    path.write_text(HEAD.format(backend=backend) + text, encoding="utf-8")
    module = CheckedBackends(path, {"iqm": "iqm", "pasqal_cloud": "pasqal-cloud"}, {"vlq": "iqm"})
    found = list(module.checks())
    assert {name for name, _ in found} <= {backend.replace("_", "-")}
    return {check for _, check in found}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {"conformance", "bit order", "random circuits"}),
        ("    noise = 0.1\n", {"conformance", "bit order"}),
        (
            "    noise = 0.1\n    profile = load_profile('vlq')\n",
            {"conformance", "bit order", "random circuits"},
        ),
        ("    takes = frozenset()\n", {"conformance"}),
        ("    takes = frozenset({'analog'})\n", {"conformance"}),
        (
            "    def make_backend(cls):\n        return f(environment=HERE)\n",
            {"conformance across the border", "bit order", "random circuits across the border"},
        ),
        (
            "    environment = None\nclass TestTwo(TestOne):\n    noise = 0.1\n",
            {"conformance", "bit order", "random circuits"},
        ),
        (
            "def test_it():\n    counts_follow_probabilities(create('iqm', environment=HERE))\n",
            {"conformance", "bit order", "random circuits", "random circuits across the border"},
        ),
        (
            "def test_it():\n    rehearsed('vlq')\n",
            {"conformance", "bit order", "random circuits", "rehearsed site"},
        ),
    ],
)
def test_a_suite_checks_what_it_says(tmp_path, text, expected) -> None:
    assert checks(tmp_path, text) == expected


def test_a_package_may_be_called_otherwise_than_its_backend(tmp_path) -> None:
    assert "conformance" in checks(tmp_path, "", "pasqal_cloud")


def rows() -> dict[str, dict[str, str]]:
    table = pages()["portability.md"].partition("<!-- backends")[2].splitlines()[1:]
    head, _, *body = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table
        if line.startswith("|")
    )
    return {row[0].strip("`"): dict(zip(head[1:], row[1:], strict=True)) for row in body}


def test_each_backend_is_checked_and_each_of_circuits_by_random_ones() -> None:
    for name, cells in rows().items():
        suites = cells["conformance"] + cells["conformance across the border"]
        assert "](" in suites, name
        if cells["bit order"] == "takes no circuits":
            continue
        assert "](" in cells["bit order"], name
        random = cells["random circuits"] + cells["random circuits across the border"]
        assert "](" in random, name
