"""The example notebook and an interrupted cell, each in a real kernel."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

from tests.patience import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kernel find this checkout, and write nothing into the home folder."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.delenv("MPLBACKEND")  # the kernel's own shows figures in the notebook
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not committed"
    done = NotebookClient(
        notebook,
        timeout=PATIENCE_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    outputs = {cell["id"]: cell.outputs for cell in done.cells if cell.cell_type == "code"}
    assert text_of(outputs["estimate"]).startswith("5 jobs, ")
    status, folder = text_of(outputs["run"]).splitlines()
    assert status.startswith("completed [0.0")
    record = json.loads((Path(folder) / "run.json").read_text())
    assert (record["target"], len(record["jobs"])) == ("__main__:rabi", 5)
    assert any("image/png" in output.get("data", {}) for output in outputs["plot"])
    waited, reason = text_of(outputs["why"]).splitlines()
    assert float(waited.split()[-2]) >= 0
    assert reason.startswith("policy weighted: ")


def text_of(outputs: list[Any]) -> str:
    """Return what a cell printed; fails if it printed to stderr."""
    assert {output.name for output in outputs} == {"stdout"}, outputs
    return "".join(output.text for output in outputs)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    """A running kernel, in an empty folder."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=PATIENCE_S)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


ENDLESS = """
import time
from prefect import flow
from hpcqc import quantum, run_flow, jobs

@quantum
def bell(qpu):
    from qiskit import QuantumCircuit
    circuit = QuantumCircuit(1, 1)
    circuit.measure(0, 0)
    job = qpu.sampler().run([circuit], shots=10)
    print("submitted", flush=True)
    return job.result()

@flow
def endless():
    bell()

run_flow(endless, site="hpcqc.toml", run_id="stopped")
"""
SITE = """
[site]
default_qpu = "slow"
[qpu.slow]
backend = "fake"
options = { run_s = 3600.0 }
"""


@pytest.mark.usefixtures("prefect_server")
def test_an_interrupted_cell_cancels_its_jobs_and_the_kernel_lives(
    kernel: tuple[KernelManager, BlockingKernelClient], tmp_path: Path
) -> None:
    (tmp_path / "hpcqc.toml").write_text(SITE)
    manager, client = kernel
    # Otherwise the kernel also aborts what is asked shortly after the interrupt.
    asked = client.execute(ENDLESS, stop_on_error=False)
    while "submitted" not in printed(client):
        pass
    manager.interrupt_kernel()
    assert reply(client, asked)["ename"] == "KeyboardInterrupt"
    record = json.loads((tmp_path / "hpcqc-runs/stopped/run.json").read_text())
    assert record["status"] == "interrupted"
    assert [job["state"] for job in record["jobs"]] == ["cancelled"]
    asked = client.execute(
        "@flow\ndef sum():\n    return 1 + 1\n"
        "assert run_flow(sum).value == 2\n"
        'assert [job.state for job in jobs("stopped", site="hpcqc.toml")] == ["cancelled"]\n'
    )
    assert reply(client, asked)["status"] == "ok"


def printed(client: BlockingKernelClient) -> str:
    """Return what the kernel printed next, empty for another message."""
    content = client.get_iopub_msg(timeout=PATIENCE_S)["content"]
    assert "ename" not in content, content["traceback"]
    return str(content.get("text", ""))


def reply(client: BlockingKernelClient, asked: str) -> dict[str, Any]:
    """Return how the execution of a cell ended."""
    while True:
        try:
            message = client.get_shell_msg(timeout=PATIENCE_S)
        except queue.Empty:
            pytest.fail("the kernel does not answer")
        if message["parent_header"].get("msg_id") == asked:
            return dict(message["content"])
