"""An environment of its own for every test: no user's state, no telemetry, no server unasked."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests import private_slurm
from tests.patience import until
from tests.postgres import MISSING, PostgresServer, server_folder
from tests.private_slurm import SlurmForTests, slurm_for_tests

if TYPE_CHECKING:
    from tests.zygotes import SharedZygote

ROOT = Path(__file__).resolve().parents[1]

# A variable of the person who runs the tests must not decide how they end.
FOREIGN = ("HPCQC_", "PREFECT_", "DASK_", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "SLURM_", "QISKIT_")
OURS = "HPCQC_TEST_"  # says how much is tried, and where
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLIENT_METRICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "MPLBACKEND": "Agg",
}
_numbers = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    """Clean the environment before any test module imports Prefect, which reads it once."""
    # No test asserts speed: on a busy machine any example may take long.
    hypothesis.settings.register_profile("hpcqc", deadline=None)
    hypothesis.settings.load_profile("hpcqc")
    home = Path(tempfile.mkdtemp(prefix="hpcqc-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        if not name.startswith(OURS):
            del os.environ[name]
    os.environ.update(QUIET)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]  # every server of a test is on this machine
    os.environ["PREFECT_HOME"] = str(home / "prefect")
    os.environ["HPCQC_STATE_DIR"] = str(home / "state")
    os.environ["XDG_CONFIG_HOME"] = str(home / "config")
    os.environ["XDG_STATE_HOME"] = str(home / "xdg-state")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the slow tests come last, after those that need a Slurm."""
    items.sort(
        key=lambda item: (
            item.get_closest_marker("slow") is not None,
            item.get_closest_marker("slurm") is not None,
        )
    )


def pytest_collection_finish() -> None:
    """Keep the million objects of imported modules and collected tests from the collector."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let pytest see, at its end, all garbage that tests left."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def isolated_state(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Give each test its own state folder, and no run left over from the one before.

    Most tests use none, so the folder is only named.
    """
    state = tmp_path_factory.getbasetemp() / f"state-{next(_numbers)}"
    monkeypatch.setenv("HPCQC_STATE_DIR", str(state))
    before = dict(os.environ)
    umask = os.umask(0o022)  # a command that runs in this process sets its own
    yield state
    os.umask(umask)
    # A run in this process prepares Prefect's variables; the next test is not to find them.
    if os.environ != before:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
    runs = sys.modules.get("orchestrator.runs")
    if runs is not None:
        runs.activate(None)


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[SlurmForTests]:
    """A Slurm for all tests of the session (5 s, once); skips where there is none."""
    with slurm_for_tests() as cluster:
        if cluster is None:
            pytest.skip(private_slurm.MISSING)
        yield cluster


@pytest.fixture
def slurm(slurm_cluster: SlurmForTests, monkeypatch: pytest.MonkeyPatch) -> SlurmForTests:
    """The cluster, which this process and its children use during the test."""
    for name, value in slurm_cluster.environment.items():
        if name.startswith("SLURM_"):
            monkeypatch.setenv(name, value)
    # As it is now, with what other fixtures have set.
    return SlurmForTests(environment={**os.environ}, root=slurm_cluster.root)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefectServer:
    """A Prefect server of this test session. api_url: what PREFECT_API_URL is set to."""

    api_url: str
    log: Path


@pytest.fixture(scope="session")
def running_prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """Start one Prefect server for the session (8 s, once), without setting its URL."""
    folder = tmp_path_factory.mktemp("prefect-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "server.log"
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    options = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    environment = os.environ | {
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
        # It writes task runs in the background; on SQLite a flow that starts meanwhile is told
        # to come back in 2 s. Flow runs are recorded all the same.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED": "false",
        # No test asks for events, schedules or blocks.
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "false",
        "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    }
    environment.pop("PREFECT_API_URL", None)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *options],
            env=environment,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C ends the tests first, then this
        )
    server = PrefectServer(api_url=f"http://127.0.0.1:{port}/api", log=log)
    try:
        _wait_until_healthy(server, process)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def prefect_server(
    running_prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PrefectServer]:
    """Run flows of this test, in this process and those it starts, against the session's server.

    A flow costs 0.2 s this way, and the first one 10 s with a temporary server on an empty database.
    """
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        temporary_settings,
    )

    url = running_prefect_server.api_url
    monkeypatch.setenv("PREFECT_API_URL", url)
    # The heartbeat's thread sleeps in whole seconds, so each sync flow would wait one for it.
    updates = {PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    gc.freeze()  # the collection below looks at what this test made, not at what was there
    with temporary_settings(updates=updates):
        yield running_prefect_server
    # Prefect's client leaves its connection open when a flow fails. Collected here, it does not
    # fail a later test that happens to be at work when the interpreter collects it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
def shared_zygote() -> Iterator[SharedZygote]:
    """One process that has imported Aer, for the tests that use ``one_zygote``."""
    from tests.zygotes import SharedZygote

    zygote = SharedZygote()
    yield zygote
    zygote.close()


@pytest.fixture
def one_zygote(shared_zygote: SharedZygote, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the workers of Aer backends made in this test from the session's one zygote.

    Each backend imports Aer in a process of its own otherwise, which costs half a second.
    """
    monkeypatch.setattr("backends.aer.worker_pool.Spawner", shared_zygote.spawner)
    monkeypatch.setattr("backends.aer.preload", lambda: None)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Start one PostgreSQL server for the session (3 s, once)."""
    programs = server_folder()
    if programs is None:
        pytest.skip(MISSING)
    server = PostgresServer(programs)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """Return the URL of an empty database of the test's own."""
    return postgres_server.new_database()


def _wait_until_healthy(server: PrefectServer, process: subprocess.Popen[bytes]) -> None:
    def healthy_or_ended() -> bool:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{server.api_url}/health", timeout=1).close()
            return True
        return process.poll() is not None

    until(healthy_or_ended, server.log.read_text, pause_s=0.05)
    if process.poll() is not None:
        pytest.fail(f"the Prefect server did not start:\n{server.log.read_text()[-2000:]}")
