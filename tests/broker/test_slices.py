"""Slices on a real simulator: whatever is cut, and wherever, equal seeds give equal counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter

from backends.aer import create
from backends.payloads import SamplerPayload
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.views import JobView
from orchestrator.broker.runtime.embedded import EmbeddedBroker
from orchestrator.config.qpu_tables import QpuSettings, ScheduleSettings
from tests.patience import PATIENCE_S

SHOTS = 20_000


def run(folder: Path, payload: SamplerPayload, slice_s: float) -> tuple[Any, JobView]:
    options = {"profile": "vlq", "time_scale": 0.0}
    settings = QpuSettings(
        name="vlq", backend="aer", options=options, schedule=ScheduleSettings(slice_s=slice_s)
    )
    folder.mkdir()
    broker = EmbeddedBroker(
        run="r",
        state_dir=folder,
        open_backend=lambda name: create(options, state_dir=folder / name),
        qpus={"vlq": settings},
    ).open()
    try:
        job = broker.submit(JobRequest(run="r", stage=None, call=0, qpu="vlq", seed=7), payload)
        return broker.result(job, timeout_s=PATIENCE_S), broker.view(job)
    finally:
        broker.close()


def rotation(points: int, seed: int | None) -> SamplerPayload:
    circuit, theta = QuantumCircuit(1), Parameter("theta")
    circuit.r(theta, 0.0, 0)
    circuit.measure_all()
    angles = np.linspace(0.4, 2.6, points)[:, np.newaxis]
    return SamplerPayload.coerce([(circuit, angles, SHOTS)], seed=seed)


@pytest.mark.slow
def test_sliced_counts_are_those_of_the_uncut_run(tmp_path: Path) -> None:
    payload = rotation(points=3, seed=7)
    whole, one = run(tmp_path / "whole", payload, slice_s=0.0)
    sliced, several = run(tmp_path / "sliced", payload, slice_s=1.0)
    assert (len(one.tasks), len(several.tasks)) == (1, 5)  # 18 700 shots are 7.5 s of work
    for point in range(3):
        of_whole, of_sliced = (found[0].data.meas.get_counts(point) for found in (whole, sliced))
        assert of_whole == of_sliced
        assert sum(of_sliced.values()) == SHOTS
    assert several.usage.shots == one.usage.shots == 3 * SHOTS


@pytest.mark.slow
def test_slices_without_a_seed_have_the_same_statistics(tmp_path: Path) -> None:
    payload = rotation(points=1, seed=None)
    whole, _ = run(tmp_path / "whole", payload, slice_s=0.0)
    sliced, view = run(tmp_path / "sliced", payload, slice_s=1.0)
    assert len(view.tasks) == 2  # 7.4 s of work, ten times a start, at 400 µs a shot
    ones = [found[0].data.meas.get_counts(0).get("1", 0) for found in (whole, sliced)]
    spread = np.sqrt(2 * SHOTS * 0.25)
    assert abs(ones[0] - ones[1]) < 5 * spread
