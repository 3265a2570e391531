"""A flow of another package, with a plot of its own, through the real command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.packages import addition, installed_package


def hpcqc(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.cli", *arguments]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(place), *sys.path])}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def images(page: Path) -> list[bytes]:
    found = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page.read_text())
    return [b64decode(data) for data in found]


@pytest.fixture
def place(tmp_path):
    (tmp_path / "package").mkdir()
    points = {"hpcqc.flows": {"rose": "roses:rose"}}
    with installed_package(tmp_path / "package", "hpcqc-roses", addition("roses"), points) as made:
        yield made


def test_help_names_the_installed_flows(place) -> None:
    said = hpcqc(place, "run", "--help")
    shown = " ".join(said.stdout.split())
    assert all(f"{name}," in shown for name in ("flows.clustering", "flows.mis", "rose"))


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_its_plot_is_in_the_record_and_drawn_again_from_it_alone(place, tmp_path) -> None:
    run = tmp_path / "run"
    said = hpcqc(place, "run", "rose", "-p", "petals=7", "--out", str(run))
    assert said.returncode == 0, said.stderr
    assert "7 petals" in said.stdout
    (image,) = images(run / "report.html")
    assert image == (run / "plot.svg").read_bytes()
    assert any(element.get("id") == "title" for element in ET.fromstring(image).iter())
    assert json.loads((run / "run.json").read_text())["outcome"]["plot"].encode() == image

    shutil.copy(run / "run.json", tmp_path / "copy.json")
    shutil.rmtree(run)
    shutil.rmtree(place)
    page = tmp_path / "again.html"
    said = hpcqc(tmp_path, "report", str(tmp_path / "copy.json"), "--out", str(page))
    assert said.returncode == 0, said.stderr
    assert images(page) == [image]
    assert "7 petals" in page.read_text()
