"""`hpcqc estimate` against what the run then used, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from backends import registry
from backends.api import Target
from orchestrator.application.estimate import core_seconds, stated_error
from orchestrator.application.qpus import dry_qpu, dry_site
from orchestrator.application.wait import ExpectedWait, expected_wait
from orchestrator.broker.client import http
from orchestrator.broker.client.http import RemoteBroker
from orchestrator.broker.client.status import QpuStatus
from orchestrator.broker.core.views import JobState, JobView
from orchestrator.cli.run.estimate import wait_text
from orchestrator.config.bounds import Rate
from orchestrator.config.broker_tables import BrokerSettings
from orchestrator.config.loading import load_site
from orchestrator.config.qpu_tables import QpuSettings, ScheduleSettings, WindowSettings
from orchestrator.identity import JobId
from orchestrator.provenance.schema import RecordedStage
from tests.cli.conftest import Said
from tests.cli.flows import FLOW
from tests.patience import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
COUNTED = ("jobs", "circuits", "shots")


@pytest.fixture
def flow_file(tmp_path, monkeypatch):
    """A flow in the working folder, and every temporary folder of this test beside it."""
    (tmp_path / "curve.py").write_text(FLOW)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setenv("HPCQC_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("PREFECT_LOCAL_STORAGE_PATH", str(tmp_path / "kept"))
    yield "curve.py"
    sys.modules.pop("curve", None)


def _estimated(said: Said) -> dict:
    assert said.code == 0, said.err
    (qpu,) = said.document["qpus"]
    return qpu


def _used(said: Said, qpu: str, folder: Path) -> dict:
    assert said.code == 0, said.err
    record = json.loads((folder / "run.json").read_text())
    jobs = record["jobs"]
    circuits = sum(job["circuits"] for job in jobs)
    return {**record["usage"]["per_qpu"][qpu], "jobs": len(jobs), "circuits": circuits}


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("qpu", ["piast-q", "helmi", "vlq"])
def test_a_run_uses_what_was_estimated(hpcqc, flow_file, tmp_path, qpu) -> None:
    options = (flow_file, "--verbose", "--qpu", qpu, "-p", "points=2", "-p", "shots=500", "--json")
    told = _estimated(hpcqc("estimate", *options))
    kept = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}  # Python's own
    assert kept == {"curve.py", "scratch"}, "no run folder, no state, no results"
    assert not list((tmp_path / "scratch").iterdir())

    used = _used(hpcqc("run", *options, "--out", "out"), qpu, tmp_path / "out")
    assert {key: told[key] for key in COUNTED} == {key: used[key] for key in COUNTED}
    assert told["jobs"] == 2
    if qpu != "vlq":  # which lets jobs share tasks, depending on when they come
        assert told["tasks"] == used["tasks"]
        assert told["charges"] == pytest.approx(used["charges"])
    within = 0.01 * (told["error_percent"] or 0.0) if qpu != "vlq" else 0.5
    assert told["qpu_seconds"] == pytest.approx(used["qpu_seconds"], rel=max(within, 1e-9))
    assert told["error_percent"] == (2.8 if qpu == "helmi" else None)
    assert not told["unseeded_jobs"]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_variational_run_uses_what_was_estimated(hpcqc, flow_file, tmp_path) -> None:
    parameters = ("molecule=h2", "lengths=[0.735, 1.5]", "max_iterations=2", "precision=0.1")
    given = [word for one in parameters for word in ("-p", one)]
    options = ("flows.dissociation", "--verbose", "--qpu", "helmi", *given, "--json")
    told = _estimated(hpcqc("estimate", *options, "--noise"))
    used = _used(hpcqc("run", *options, "--out", "out"), "helmi", tmp_path / "out")
    assert told["jobs"] > 1
    assert {key: told[key] for key in COUNTED} == {key: used[key] for key in COUNTED}
    assert told["qpu_seconds"] == pytest.approx(used["qpu_seconds"], rel=0.028)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_foreign_backend_is_never_opened(hpcqc, flow_file, tmp_path) -> None:
    (tmp_path / "hpcqc.toml").write_text(
        '[qpu.far]\nbackend = "vendor"\noptions = { token = { env = "NOT_SET" } }\n'
    )
    options = ("estimate", flow_file, "--verbose", "--site", "hpcqc.toml", "--json")
    modelled = _estimated(hpcqc(*options, "--set", "qpu.far.profile=helmi"))
    assert modelled["profile"] == "helmi"
    assert modelled["charges"]["qpu-s"] == pytest.approx(modelled["qpu_seconds"])
    assert "'vendor' was not asked" in modelled["notes"][0]
    bare = _estimated(hpcqc(*options))
    assert (bare["jobs"], bare["shots"]) == (3, 300)
    assert bare["qpu_seconds"] is bare["charges"] is None, "nobody knows what it takes there"


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_an_ideal_simulator_costs_what_the_table_says(hpcqc, flow_file) -> None:
    options = ("estimate", flow_file, "--verbose", "--qpu", "aer", "-p", "points=1")
    said = hpcqc(*options)
    assert "at a cost of" in said.out
    assert "qpu-s" in said.out
    assert "free" not in said.out


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_flow_that_fails_is_told_in_a_sentence(hpcqc, flow_file) -> None:
    said = hpcqc("estimate", flow_file, "--verbose", "-p", "shots=0")
    assert said.code == 2
    assert "the dry run of curve.py failed" in said.err
    assert re.search(r"\(curve\.py:\d+\)", said.err), said.err


@pytest.mark.usefixtures("prefect_server")
def test_a_dry_run_that_fails_tells_where(hpcqc, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.py").write_text(
        "from prefect import flow\n"
        "def divide(by):\n    return 1 / by\n"
        "@flow\ndef wrong():\n    divide(0)\n"
    )
    said = hpcqc("estimate", "wrong.py")
    assert said.code != 0
    assert "division by zero (wrong.py:3)" in " ".join(said.err.split())


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(tmp_path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\nfrom prefect import flow\nprint('here', flush=True)\n"
        "@flow\ndef slow():\n    print('at work', flush=True)\n    time.sleep(900)\n"
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = os.environ | {
        "TMPDIR": str(scratch),
        "HPCQC_STATE_DIR": str(tmp_path / "state"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "orchestrator.cli", "estimate", "slow.py", "--verbose"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as dry:
        assert dry.stderr is not None
        seen = b""
        while b"at work" not in seen:
            more = os.read(dry.stderr.fileno(), 4096)
            assert more, seen.decode()
            seen += more
        dry.send_signal(signal.SIGINT)
        seen += dry.communicate(timeout=PATIENCE_S)[1]
        assert dry.returncode == 130, seen.decode()
    assert b"nothing was spent" in seen
    assert not list(scratch.glob("hpcqc-estimate-*"))
    assert not (tmp_path / "state").exists()
    assert not (tmp_path / "hpcqc-runs").exists()


def test_no_qpu_of_a_dry_site_is_real(tmp_path) -> None:
    site = load_site(environ={"HOME": str(tmp_path), "HPCQC_SITE": "built-in"})
    real = QpuSettings(
        name="far",
        backend="vendor",
        options={"profile": "helmi", "token": "secret", "time_scale": 1.0},
        schedule=ScheduleSettings(slice_s=3.0, rate=Rate(starts=1, per_s=60.0)),
    )
    dry = dry_qpu(real)
    assert (dry.backend, dry.options) == ("aer", {"profile": "helmi", "noiseless": True})
    assert dry_qpu(real, noisy=True).options == {"profile": "helmi"}
    assert (dry.schedule.slice_s, dry.schedule.rate) == (3.0, None)
    whole = dry_site(site, tmp_path)
    assert whole.broker == BrokerSettings()
    assert whole.state_dir.is_relative_to(tmp_path)
    assert {qpu.backend for qpu in whole.qpus.values()} == {"aer"}
    assert all("time_scale" not in qpu.options for qpu in whole.qpus.values())


def test_a_backend_with_a_simulator_of_its_own_runs_dry_itself() -> None:
    options = {"sweeps": 50}
    real = QpuSettings(name="a", backend="annealing", options=options, environment="managed")
    dry = dry_qpu(real)
    assert (dry.backend, dry.options, dry.environment) == ("annealing", options, "managed")


NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
SHUT = {"start": NOW - timedelta(hours=1), "end": NOW + timedelta(hours=2)}
JOB = JobView(
    id=JobId("j0"),
    qpu="vlq",
    backend="aer",
    kind="sampler",
    state=JobState.QUEUED,
    run="r",
    stage=None,
    call=0,
    digest="d",
    pubs=1,
    circuits=1,
    shots=100,
    num_qubits=2,
    seed=None,
    submitted_at=NOW,
)


def target_of(qpu: str) -> Target:
    settings = load_site().qpu(qpu)
    return registry.describe(settings.backend, settings.options)


def _waits(
    monkeypatch: pytest.MonkeyPatch, qpu: dict[str, Any], jobs: Sequence[JobView] = ()
) -> tuple[ExpectedWait, str]:
    """Return what a run on a QPU without a clock waits for, where a broker says this of it."""

    class Client(RemoteBroker):
        def qpus(self) -> list[QpuStatus]:
            stated = {"name": "vlq", "backend": "aer", "state": "online", "reason": None}
            stated |= {"queued": len(jobs), "open": 0} | qpu
            return [TypeAdapter(QpuStatus).validate_python(stated)]

        def queue(self, qpu: str | None = None) -> list[JobView]:
            assert qpu == "vlq"
            return list(jobs)

    monkeypatch.setattr(http, "RemoteBroker", Client)
    monkeypatch.setenv("HPCQC_SITE", "built-in")
    site = load_site().model_copy(update={"broker": BrokerSettings(url="http://127.0.0.1:9")})
    told = expected_wait(site, site.qpu("vlq"), target_of("vlq"), 1.0, now=NOW)
    return told, wait_text(told)


def test_a_closure_at_the_broker_is_waited_out(monkeypatch) -> None:
    shut = {key: at.isoformat() for key, at in SHUT.items()}
    closure = {"closed": True, "closure": {**shut, "kind": "maintenance", "title": "new pump"}}
    told, text = _waits(monkeypatch, closure, [JOB, JOB])
    assert told.waiting_s == 7200
    assert told.closed_until == SHUT["end"]
    until = f"{SHUT['end']:%Y-%m-%d %H:%M:%S}"
    assert text.endswith(f"closed until {until} UTC: new pump, 2 jobs ahead")
    # Where nobody tells how long the others take, it is at least not before the closure's end.
    told, text = _waits(monkeypatch, closure | {"queued": 3})
    assert told.waiting_s is None
    assert text == f"not known, closed until {until} UTC: new pump, 3 jobs ahead"


def test_a_qpu_that_takes_nothing_up_makes_wait(monkeypatch) -> None:
    assert _waits(monkeypatch, {})[1] == "no"
    told, text = _waits(monkeypatch, {"state": "drained"}, [JOB])
    assert told.waiting_s is None
    assert text == "not known, the QPU is drained, 1 job ahead"


def test_a_window_of_the_site_file_counts_without_a_profile() -> None:
    site = load_site()
    shut = WindowSettings(kind="maintenance", start=SHUT["start"], end=SHUT["end"], title="pump")
    settings = site.qpu("aer").model_copy(update={"schedule": ScheduleSettings(window=[shut])})
    told = expected_wait(site, settings, target_of("aer"), 0.0, now=NOW)
    assert told.waiting_s == 7200
    assert "UTC: pump" in wait_text(told)


def test_core_seconds_count_cores_and_fan_outs() -> None:
    stage = RecordedStage(
        key="k",
        name="s",
        kind="classical",
        state="completed",
        started_at=NOW,
        ran_from=NOW,
        ran_until=NOW + timedelta(seconds=10),
    )

    def changed(**values) -> RecordedStage:
        return stage.model_copy(update=values)

    assert core_seconds([stage], 4) == 10
    assert core_seconds([changed(cores=3)], 4) == 30
    assert core_seconds([changed(units=(9, 9))], 4) == 40
    assert core_seconds([changed(units=(2, 2)), stage], 4) == 30
    assert core_seconds([changed(kind="quantum"), changed(ran_until=None)], 4) == 0


def test_the_error_to_expect_is_the_profiles_own() -> None:
    assert stated_error({"timing": "refit: 5.9 % mean error on rows held out"}) == 5.9
    assert stated_error({"timing": "assumed: as another"}) is None
