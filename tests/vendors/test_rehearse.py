"""`hpcqc rehearse` as users start it: a process, a site file, and flows that reach it by HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from hpcqc import run_flow, sample
from orchestrator.application.rehearse import prepare_rehearsal
from orchestrator.config.errors import ConfigError
from tests.patience import PATIENCE_S
from tests.rehearsed import rehearsed

FLIPPED = 'OPENQASM 2.0;\ninclude "qelib1.inc";\nqreg q[3];\ncreg c[3];\nx q[0];\nmeasure q -> c;\n'


@contextmanager
def rehearsing(folder: Path, site: str, *arguments: str) -> Iterator[str]:
    """Run the command while the block runs; give what its first line says it listens at."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "orchestrator.cli", "rehearse", site, "--folder", str(folder)),
            *arguments,
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        first = process.stdout.readline()
        found = re.search(r"http://\S+", first)
        assert found, first
        yield found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        process.stdout.close()
        assert process.wait(PATIENCE_S) == 0


def meter(url: str, folder: Path) -> dict:
    token = (folder / "control").read_text(encoding="utf-8")
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.get(f"{url}/rehearsal/meter", headers=headers, trust_env=False).json()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("site", "faults"),
    [
        ("vlq", ("429:submit:2", "garbage:status:3", "renew:status:4")),
        ("vlq-staged", ("lost:submit:2", "lost:create:3", "garbage:status:5", "renew:stage:4")),
        ("euro-q-exa", ("429:submit:2", "garbage:status:3", "renew:status:4")),
        ("ibex-q1", ("429:submit:2", "garbage:result:3", "renew:result:4")),
        ("piast-q", ("429:submit:2,3,5", "503:target:2", "garbage:result:3", "renew:result:4")),
    ],
)
def test_sampling_and_a_flow_reach_a_rehearsed_site(site, faults, tmp_path, monkeypatch) -> None:
    pytest.importorskip("pyscf")
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "place"
    (tmp_path / "flipped.qasm").write_text(FLIPPED)
    stated = [word for fault in faults for word in ("--fault", fault)]
    with rehearsing(place, site, "--clock", "0", *stated) as url:
        found = sample(tmp_path / "flipped.qasm", shots=200, site=place / "site.toml")
        assert max(found.counts, key=found.counts.get) == "001"
        before = meter(url, place)
        result = run_flow(
            "flows.dissociation",
            {"molecule": "h2", "lengths": [0.74], "precision": 0.03, "max_iterations": 5},
            site=place / "site.toml",
            out=tmp_path / "run",
        )
        books = meter(url, place)
    (point,) = result.value["points"]
    assert point["vqe"] == pytest.approx(point["exact"], abs=0.25)
    record = result.record
    assert books["jobs"] - before["jobs"] == sum(len(job.tasks) for job in record.jobs)
    starts = {label: n for label, n in books["starts"].items() if label not in before["starts"]}
    # Direct access to AQT's machines takes no label.
    assert set(starts.values()) == (set() if site == "piast-q" else {1})
    charged = {unit: total - before["charges"][unit] for unit, total in books["charges"].items()}
    assert record.usage.total.charges == pytest.approx(charged)


@pytest.mark.slow
def test_the_folder_of_a_rehearsal_is_private(tmp_path) -> None:
    place = tmp_path / "place"
    with rehearsing(place, "vlq", "--clock", "0") as url:
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        for name in ("token.json", "control", "site.toml"):
            assert stat.S_IMODE((place / name).stat().st_mode) == 0o600
        api = f"{url}/api/v1/quantum-computers"
        token = json.loads((place / "token.json").read_text())["access_token"]
        control = (place / "control").read_text()
        with httpx.Client(trust_env=False) as client:
            for secret, status in (("x", 401), (control, 401), (token, 200)):
                headers = {"Authorization": f"Bearer {secret}"}
                assert client.get(api, headers=headers).status_code == status
            for path in (api, f"{url}/rehearsal/meter"):  # no text of ASCII, as no token is
                sent = client.get(path, headers={b"Authorization": b"Bearer \xff"})
                assert sent.status_code == 401
            for secret, status in (("x", 401), (token, 401), (control, 200)):
                headers = {"Authorization": f"Bearer {secret}"}
                found = client.get(f"{url}/rehearsal/meter", headers=headers)
                assert found.status_code == status


def test_a_second_server_leaves_the_folder_of_the_first_alone(tmp_path) -> None:
    place = tmp_path / "place"
    with rehearsed("vlq", place):
        kept = {file.name: file.read_bytes() for file in place.iterdir() if file.is_file()}
        with pytest.raises(ConfigError, match="--folder"):
            prepare_rehearsal("vlq", folder=place)
        assert {file.name: file.read_bytes() for file in place.iterdir() if file.is_file()} == kept
    with rehearsed("vlq", place):
        assert (place / "control").read_bytes() != kept["control"]
