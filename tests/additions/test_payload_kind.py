"""A payload kind and its QPU from other packages: submitted, cut, merged, read back."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qiskit import QuantumCircuit

from backends import registry
from backends.api import PayloadRejected
from backends.payloads import (
    PayloadLimits,
    SamplerPayload,
    payload_from_untrusted,
    payload_kind,
)
from backends.plugins import PluginUnusable, UnknownPlugin
from backends.targets import target_to_json
from backends.testing import BackendConformance
from hpcqc import Qpu, open_qpu
from orchestrator import runs
from orchestrator.broker.runtime.checked_payload import CheckedPayload
from orchestrator.broker.runtime.intake import reader
from orchestrator.config.loading import load_site
from orchestrator.resources import shutdown
from orchestrator.runs import Run
from tests.errors import naming
from tests.packages import addition, installed_package
from tests.service.conftest import Service

MODULES = ("annealing", "annealing_cases", "annealer")
POINTS = {
    "hpcqc.payloads": {
        "annealing-toy": "annealing:KIND",
        "odd": "annealing:AnnealingKind",
        "broken": "brokenkind:KIND",
    },
    "hpcqc.payload_cases": {"annealing-toy": "annealing_cases:CASES"},
    "orchestrator.backends": {"annealer": "annealer:create"},
}
# As packages do that load a library with ctypes. All tests here run beside it.
BROKEN = 'raise OSError("libsdk.so.2: no such file")\n'
SITE = """
[site]
default_qpu = "annealer"
default_compute = "local"

[compute.local]
workers = 1

[qpu.annealer]
backend = "annealer"
options = {{ looks = 100 }}

[broker]
{broker}
"""


@pytest.fixture(scope="module", autouse=True)
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("packages")
    modules = {name: source for name in MODULES for name, source in addition(name).items()}
    payload_kind.cache_clear()
    modules["brokenkind"] = BROKEN
    with installed_package(place, "hpcqc-annealing", modules, POINTS):
        yield place
    payload_kind.cache_clear()


@pytest.fixture(params=["embedded", "service"])
def qpu(request: pytest.FixtureRequest, packages: Path, tmp_path: Path) -> Iterator[Qpu]:
    """The annealer behind the broker of this process, and behind a service over HTTP."""
    state, site, service, broker = tmp_path / "state", tmp_path / "hpcqc.toml", None, ""
    state.mkdir()
    if request.param == "service":
        (tmp_path / "service.toml").write_text(SITE.format(broker=""))
        service = Service(state=state, site=tmp_path / "service.toml", packages=packages).start()
        broker = f'url = "{service.socket}"'
    site.write_text(SITE.format(broker=broker))
    client = {**os.environ, "HPCQC_STATE_DIR": str(tmp_path / "client")}
    runs.activate(Run(id="annealing", site=load_site(site, environ=client)))
    yield open_qpu()
    shutdown()
    runs.activate(None)
    if service is not None:
        assert service.stop() == 0


def payload(*problems: tuple[tuple[int, int, float], ...], reads: int) -> Any:
    from annealing import AnnealingPayload

    return AnnealingPayload(problems=problems, reads=(reads,) * len(problems))


FERROMAGNET = ((0, 1, -1.0), (1, 2, -2.0))
PAIR = ((0, 1, 3.0),)


def test_a_job_is_cut_and_merged(qpu: Qpu) -> None:
    job = qpu.run(payload(FERROMAGNET, PAIR, reads=250))
    magnet, pair = job.result()
    assert type(magnet) is sys.modules["annealing"].Samples
    assert magnet.spins.shape == (250, 3)
    assert pair.spins.shape == (250, 2)
    np.testing.assert_allclose(magnet.energies, -3.0)
    np.testing.assert_allclose(pair.energies, -3.0)
    view = job.view()
    assert view.kind == "annealing-toy"
    assert len(view.tasks) > 4  # the QPU takes 100 reads
    assert (view.usage.shots, view.shots, view.num_qubits) == (500, 500, 3)


def test_jobs_share_a_task(qpu: Qpu) -> None:
    first = qpu.run(payload(PAIR, reads=1))
    others = [qpu.run(payload(PAIR, FERROMAGNET, reads=10 + n)) for n in range(2)]
    assert first.result()[0].spins.shape == (1, 2)
    for n, job in enumerate(others):
        assert [one.spins.shape for one in job.result()] == [(10 + n, 2), (10 + n, 3)]
    tags = [{task.tag for task in job.view().tasks} for job in others]
    assert tags[0] == tags[1]


def test_a_result_is_used_again(qpu: Qpu) -> None:
    first = qpu.run(payload(FERROMAGNET, reads=30), reuse=True).result()
    again = qpu.run(payload(FERROMAGNET, reads=30), reuse=True).result()
    assert np.array_equal(first[0].spins, again[0].spins)


def test_what_the_qpu_cannot_run_is_refused(qpu: Qpu) -> None:
    circuit = QuantumCircuit(1)
    circuit.measure_all()
    with pytest.raises(PayloadRejected, match=naming("sampler", "annealing-toy")):
        qpu.run(SamplerPayload.coerce([circuit], shots=10))
    with pytest.raises(PayloadRejected, match=naming(100, 16)):
        qpu.run(payload(((0, 99, 1.0),), reads=10))
    with pytest.raises(PayloadRejected, match=naming("annealing-toy", "sampler")):
        qpu.sampler().run([circuit])


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"problems": []}, ["problem"]),
        ({"reads": [0]}, ["read"]),
        ({"reads": [10**11]}, ["shots"]),
        ({"problems": [[[0, -1, 1.0]]]}, ["spins"]),
        ({"problems": [[[0, 1, 1.0]] * 11]}, ["couplings"]),
        ({"problems": 3}, ["damaged"]),
        ({"kind": "annealing-toi"}, ["annealing-toi", "annealing-toy", "estimator", "sampler"]),
        ({"kind": ["sampler"]}, ["sampler"]),
        ({"kind": "odd"}, ["odd", "AnnealingKind"]),
        ({"kind": "broken"}, ["broken", "hpcqc.payloads", "hpcqc-annealing", "libsdk.so.2"]),
    ],
)
def test_bytes_of_users_are_checked(changed: dict[str, Any], named: list[str]) -> None:
    from backends.frames import pack, unpack

    header, _ = unpack(payload(PAIR, reads=5).to_bytes())
    limits = PayloadLimits(terms=10)
    assert payload_from_untrusted(pack(header), limits=limits) == payload(PAIR, reads=5)
    with pytest.raises(PayloadRejected, match=naming(*named)):
        payload_from_untrusted(pack({**header, **changed}), limits=limits)


def test_what_cannot_be_used_is_explained() -> None:
    with pytest.raises(UnknownPlugin, match=naming("annealing-toi", "annealing-toy", "sampler")):
        payload_kind("annealing-toi")
    with pytest.raises(PluginUnusable, match=naming("odd")):
        payload_kind("odd")


def test_a_kind_that_fails_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    data = payload(PAIR, reads=5).to_bytes()
    target = json.dumps(target_to_json(registry.describe("annealer", {}))).encode()

    def answer() -> CheckedPayload:
        return CheckedPayload.from_bytes(reader._answer(target, data))

    assert answer().kind == "annealing-toy"
    with monkeypatch.context() as changed:
        changed.setattr(type(payload_kind("annealing-toy")), "check", lambda *_: 1 // 0)
        with pytest.raises(PayloadRejected, match=naming("annealing-toy", "ZeroDivisionError")):
            answer()
    monkeypatch.setattr(sys.modules["annealing"].AnnealingPayload, "shapes", ("no shape",))
    with pytest.raises(PayloadRejected, match=naming("points")):
        payload_from_untrusted(data, limits=PayloadLimits())


class TestAnnealer(BackendConformance):
    finish_s = 10.0

    @classmethod
    def make_backend(cls, state_dir: Path) -> Any:
        return registry.create("annealer", {}, state_dir=state_dir)
