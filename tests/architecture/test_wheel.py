"""What a user installs: the three packages, their data and the licence, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from configparser import ConfigParser

import pytest

from tests.architecture.source import PACKAGES, ROOT
from tests.patience import PATIENCE_S


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout, opened."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run(
        [*command, str(ROOT)], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("hpcqc-*-py3-none-any.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def test_the_wheel_holds_exactly_the_three_packages(wheel) -> None:
    top = {name.split("/")[0] for name in wheel.namelist()}
    (info,) = {name for name in top if name.endswith(".dist-info")}
    assert top == {*PACKAGES, info}


def test_the_wheel_holds_every_tracked_file_of_the_packages(wheel) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", *PACKAGES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    tracked = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    assert any(name.endswith(".py") for name in tracked)
    assert tracked <= set(wheel.namelist())
    for package in PACKAGES:
        assert f"{package}/py.typed" in wheel.namelist()


def test_the_wheel_holds_licence_and_profiles(wheel) -> None:
    names = wheel.namelist()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    profiles = {path.name for path in (ROOT / "backends" / "profiles").glob("*.toml")}
    packed = {
        n.rsplit("/", 1)[-1]
        for n in names
        if n.startswith("backends/profiles/") and n.endswith(".toml")
    }
    assert packed == profiles


def test_the_entry_points_name_what_is_in_the_wheel(wheel) -> None:
    (name,) = [n for n in wheel.namelist() if n.endswith("/entry_points.txt")]
    points = ConfigParser()
    points.optionxform = str
    points.read_string(wheel.read(name).decode())
    values = [value for section in points.sections() for value in points[section].values()]
    assert "orchestrator.cli:main" in values
    for value in values:
        path = value.split(":")[0].replace(".", "/")
        assert {f"{path}.py", f"{path}/__init__.py"} & set(wheel.namelist()), value
