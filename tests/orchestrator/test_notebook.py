"""Flows called as functions, one after another in one process, as a notebook does it."""

from __future__ import annotations

import threading

import pytest
from prefect import flow

from hpcqc import Sampler, classical, fan_out, on_qpu, open_qpu, quantum, shutdown
from orchestrator.config.errors import ConfigError
from orchestrator.runs import current_run
from tests.errors import naming


@quantum
def lent(qpu, _number):
    return qpu.name, open_qpu().name


@flow
def names():
    return {name for future in lent.map([1, 2]) for name in future.result()} | set(lent(3))


@classical
def seen_on_a_worker():
    from orchestrator.resources import resources

    return resources().run.default_qpu


def on_worker(_unit):
    return seen_on_a_worker.fn()


@pytest.fixture(autouse=True)
def ended():
    yield
    shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_each_call_of_a_flow_may_have_its_qpu(monkeypatch) -> None:
    assert names() == {"aer"}
    with on_qpu("vlq"):
        assert names() == {"vlq"}
        with on_qpu("piast-q"):
            assert names() == {"piast-q"}
        assert names() == {"vlq"}
    assert names() == {"aer"}
    monkeypatch.setenv("HPCQC_QPU", "vtt-q50")
    assert names() == {"vtt-q50"}
    monkeypatch.delenv("HPCQC_QPU")
    assert names() == {"aer"}


def test_two_threads_have_their_own_qpus() -> None:
    here, both = {}, threading.Barrier(2)

    def ask(name: str) -> None:
        with on_qpu(name):
            both.wait(10)
            here[name] = current_run().default_qpu
            both.wait(10)

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("aer", "vlq")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert here == {"aer": "aer", "vlq": "vlq"}


def test_a_primitive_made_before_follows() -> None:
    sampler = Sampler()
    assert sampler.qpu.name == "aer"
    with on_qpu("vlq"):
        assert sampler.qpu.name == "vlq"
    assert sampler.qpu.name == "aer"


@pytest.mark.slow
def test_the_choice_holds_on_workers() -> None:
    with on_qpu("vlq"):
        assert seen_on_a_worker.fn() == "vlq"
        assert list(fan_out(on_worker, [1])) == ["vlq"]


def test_a_qpu_that_is_not_there_is_an_error_at_once(monkeypatch) -> None:
    with pytest.raises(ConfigError, match=naming("vql")), on_qpu("vql"):
        pass
    monkeypatch.setenv("HPCQC_QPU", "vql")
    with pytest.raises(ConfigError, match=naming("vql")):
        current_run()


def test_a_change_that_cannot_be_heeded_is_an_error(monkeypatch, tmp_path) -> None:
    first = current_run()
    monkeypatch.setenv("HPCQC_STATE_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(ConfigError, match=naming("HPCQC_STATE_DIR", "hpcqc.shutdown()")):
        current_run()
    shutdown()
    assert current_run().site.state_dir == tmp_path / "elsewhere"
    assert current_run().id != first.id
