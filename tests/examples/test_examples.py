"""Every example runs by the command in its first lines and prints its result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.timeout(1800),
]


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture(autouse=True)
def _packages_of_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def _counts(text: str) -> dict[str, int]:
    return {bits: int(count) for bits, count in (line.split() for line in text.splitlines())}


def test_no_example_is_left_out() -> None:
    scripts = {"bell_on_any_qpu.py", "fan_out.py"}
    on_slurm = {"mpi_gpu_qpu.py"}  # tests/slurm/test_mpi_example.py
    assert {path.name for path in EXAMPLES.glob("*.py")} == scripts | on_slurm
    assert {path.name for path in EXAMPLES.glob("*.ipynb")} == {"notebook.ipynb"}


def test_a_qiskit_script_runs_on_the_default_qpu_and_on_a_named_one(tmp_path: Path) -> None:
    script = str(EXAMPLES / "bell_on_any_qpu.py")
    ideal, noisy = _run(tmp_path, script), _run(tmp_path, script, "vlq")
    assert (ideal.returncode, noisy.returncode) == (0, 0), ideal.stderr + noisy.stderr
    counts = _counts(ideal.stdout)
    assert set(counts) == {"00", "11"}
    assert sum(counts.values()) == 1000
    assert abs(counts["00"] - 500) < 80  # five standard deviations
    counts = _counts(noisy.stdout)
    assert sum(counts.values()) == 1000
    assert counts["00"] + counts["11"] > 700
    assert len(counts) > 2, "a noisy QPU gave an ideal result"


def test_units_are_spread_and_summed(tmp_path: Path) -> None:
    script = str(EXAMPLES / "fan_out.py")
    words = ("-m", "orchestrator.cli", "run", script, "-p", "units=200", "--out", "pi", "--json")
    done = _run(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "pi" / "result.json").read_text(encoding="utf-8"))
    assert results["pi"] == pytest.approx(3.1416, abs=0.02)
    assert "200000 throws" in results["summary"][0]
