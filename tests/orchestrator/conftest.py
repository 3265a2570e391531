"""One set of Dask workers for all tests of the stages: they take seconds to start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import resources, runs
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.site import Site
from orchestrator.runs import Run


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """End the workers after the last test of this folder."""
    if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
        resources.shutdown()


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on a site with two workers; its resources live on for the modules that follow."""
    site = Site(
        name="test",
        default_qpu="aer",
        default_compute="local",
        qpus={
            "aer": QpuSettings(name="aer", backend="aer", options={}),
            "fake": QpuSettings(name="fake", backend="fake"),
        },
        computes={"local": ComputeSettings(name="local", workers=2)},
        state_dir=tmp_path_factory.mktemp("state"),
        source="test",
    )
    return Run(id="shared", site=site)


@pytest.fixture
def run(shared_run: Run) -> Iterator[Run]:
    """The run of all modules, active for one test."""
    runs.activate(shared_run)
    yield shared_run
    runs.activate(None)


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """A folder in which functions on workers leave a file each time they run."""
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder
