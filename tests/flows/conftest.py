"""Ready flows as a user runs them: a site, runs on it, what every result keeps; one thread each."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from threadpoolctl import threadpool_limits

from orchestrator import resources, runs
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.site import Site
from orchestrator.runs import Run

if TYPE_CHECKING:
    from tests.flows.federation import Hall


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Limit the threads of BLAS and OpenMP: for small molecules, they only wait for each other."""
    with contextlib.suppress(ImportError):  # an extra; its library must be loaded to be limited
        import pyscf.lib  # noqa: F401
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An ideal simulator, two with noise, an annealer, atoms; workers live with the module."""
    noisy = [
        QpuSettings(name=name, backend="aer", options={"profile": name, "time_scale": 0})
        for name in ("helmi", "vlq")
    ]
    yield Site(
        name="test",
        default_qpu="aer",
        default_compute="local",
        qpus={"aer": QpuSettings(name="aer", backend="aer")}
        | {one.name: one for one in noisy}
        | {"annealer": QpuSettings(name="annealer", backend="annealing")}
        | {"atoms": QpuSettings(name="atoms", backend="rydberg")},
        computes={"local": ComputeSettings(name="local", workers=2)},
        state_dir=tmp_path_factory.mktemp("state"),
        source="test",
    )
    resources.shutdown()


@pytest.fixture
def run_on(site: Site) -> Iterator[Callable[[str], Run]]:
    """Return what activates a run on one of the QPUs, until the end of the test."""

    def activate(qpu: str) -> Run:
        current = Run(id=f"on-{qpu}", site=site, qpu=qpu)
        runs.activate(current)
        return current

    yield activate
    runs.activate(None)


@pytest.fixture
def run(run_on: Callable[[str], Run]) -> Run:
    return run_on("aer")


@pytest.fixture
def kept() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what checks that a result has what `flows` promises of every one, and returns it."""

    def check(result: dict[str, Any]) -> dict[str, Any]:
        # Only what JSON has, so that a reader of the record gets what the caller got.
        assert json.loads(json.dumps(result, allow_nan=False)) == result
        columns = result["table"]["columns"]
        assert all(len(row) == len(columns) for row in result["table"]["rows"])
        assert all(isinstance(line, str) and line for line in result["summary"])
        return result

    return check


@pytest.fixture(scope="module")
def one_hall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    from tests.flows.federation import Hall  # its links need an extra

    with contextlib.ExitStack() as stack:
        yield Hall(tmp_path_factory.mktemp("hall") / "links", stack)


@pytest.fixture
def hall(one_hall: Hall) -> Hall:
    """The sites of a federation, as if nothing had been asked of them yet."""
    one_hall.reset()
    return one_hall
