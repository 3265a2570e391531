"""The help of a command after the name of a flow."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from backends.plugins import installed
from orchestrator.application.flow_text import flow_text
from orchestrator.application.target import GROUP, find_target
from tests.errors import naming

OWN = '''"""Text of the file."""
from prefect import flow
raise SystemExit("executed")

@flow(name="other")
def rings(count: int, colour: str = "red", *, depth: float | None = None, **more):
    """Draw rings.

    - ``count``: how many
    """
'''


def test_every_ready_flow_says_what_it_computes_and_takes() -> None:
    for name in installed(GROUP):
        found = flow_text(find_target(name))
        assert len(found.text) > 100, name
        assert found.parameters, name


@pytest.mark.parametrize("command", ["run", "estimate", "plan", "deploy"])
def test_the_help_of_a_ready_flow(hpcqc, command) -> None:
    said = hpcqc(command, "flows.anomalies", "--help")
    shown = " ".join(said.out.split())
    assert (said.code, said.err) == (0, "")
    assert "anomalies detected by quantum kernels" in shown
    assert "subset int, by default 60" in shown
    assert "Literal['recognition', 'detection'], optional" in shown
    assert "--json" in shown
    assert not re.search(r"\x1b", said.out)


def test_a_file_of_the_user_is_not_executed(hpcqc, tmp_path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    said = hpcqc("run", "--help", "own.py:rings")
    shown = " ".join(said.out.split())
    assert said.code == 0
    assert "Draw rings. - `count`: how many" in shown
    for words in ("count int, needed", "colour str, by default red", "depth float, optional"):
        assert words in shown
    assert "**more" in shown


def test_what_cannot_be_read_is_said_before_the_help(hpcqc, tmp_path) -> None:
    (tmp_path / "own.py").write_text("from elsewhere import rings\n")
    said = hpcqc("run", "own.py:rings", "--help")
    assert said.code == 0
    assert re.search(naming("own.py:rings", "no function rings"), said.out.splitlines()[0])
    assert said.out.split("\n\n", 1)[1] == hpcqc("run", "--help").out


def test_a_flow_that_is_not_there_or_not_chosen_is_an_error(hpcqc, tmp_path) -> None:
    said = hpcqc("run", "flows.anomalis", "--help")
    assert said.code == 2
    assert re.search(naming("flows.anomalis", "mean 'flows.anomalies'"), said.paragraph)
    (tmp_path / "two.py").write_text("@flow\ndef a(): ...\n@flow\ndef b(): ...\n")
    said = hpcqc("run", "two.py", "--help")
    assert said.code == 2
    assert re.search(naming("two.py", "a, b"), said.paragraph)


def test_help_imports_no_flow_and_nothing_heavy() -> None:
    source = (
        "import sys\nfrom orchestrator.cli import main\n"
        "try:\n    main(['run', 'flows.anomalies', '--help'])\nexcept SystemExit: ...\n"
        "heavy = {'flows', 'prefect', 'qiskit', 'numpy', 'sklearn'} & set(sys.modules)\n"
        "print('imported', sorted(heavy))\n"
    )
    command = [sys.executable, "-c", source]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout.endswith("imported []\n")
