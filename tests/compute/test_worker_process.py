"""The process of a worker job, with a scheduler of the test's own and without Slurm."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from orchestrator.compute.cluster_process import (
    WORKER_ENVIRONMENT,
    ClusterProcess,
    connect,
    import_path,
)
from orchestrator.compute.connection import CONNECTION_FILE
from orchestrator.compute.fanout import Spread, fan_out_on
from orchestrator.compute.nodes import free_port
from orchestrator.compute.remote_call import (
    RemoteFunction,
    StageContext,
    dump_by_value,
    packed_call,
    run_packed,
)
from orchestrator.compute.worker import WorkerSpec
from orchestrator.identity import WorkerName
from tests.patience import until


@pytest.fixture(scope="module")
def scheduler():
    process = ClusterProcess({"workers": 0, "memory_per_worker": None, "interface": "lo"})
    yield process.connection()
    process.close()


@pytest.fixture
def client(scheduler):
    with connect(scheduler) as client:
        yield client
        until(lambda: not names(client))


@pytest.fixture
def job(scheduler, tmp_path):
    """Starts processes of worker jobs, and ends them."""
    folder = tmp_path / "run"
    folder.mkdir()
    scheduler.write(folder)
    started = []

    def start(**options) -> subprocess.Popen[str]:
        spec = WorkerSpec(folder=folder, pool="shared", interface="lo", **options)
        environment = {**os.environ, **WORKER_ENVIRONMENT, "PYTHONPATH": import_path()}
        started.append(
            subprocess.Popen(
                [sys.executable, "-P", "-m", "orchestrator.compute.worker", *spec.arguments()],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.wait()
        process.stdout.close()


def names(client) -> set[str]:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return {worker["name"] for worker in workers}


def ran(client, function, *args):
    return client.submit(function, *args, pure=False, resources={"shared": 1}).result()


def _random_number() -> float:
    import random

    return random.random()


def _numpy_number() -> float:
    import numpy as np

    return float(np.random.rand())


def _squares() -> list[int]:
    from multiprocessing import Pool

    with Pool(2) as pool:
        return pool.map(abs, [-1, -2])


def _large(size: int) -> int:
    import time

    memory = bytearray(os.urandom(1)) * size
    time.sleep(60)
    return len(memory)


def test_a_worker_that_dies_is_replaced_under_another_name(client, job) -> None:
    job(processes=2)
    until(lambda: len(names(client)) == 2)
    before = names(client)
    os.kill(ran(client, os.getpid), signal.SIGKILL)
    (new,) = until(lambda: names(client) - before)
    assert WorkerName.parse(new).process in (2, 3)


def test_workers_have_random_numbers_of_their_own(client, job) -> None:
    job(processes=2)
    until(lambda: len(names(client)) == 2)
    for function in (_random_number, _numpy_number):
        assert len(set(client.run(function).values())) == 2


def test_a_function_may_have_processes_of_its_own(client, job) -> None:
    job()
    assert ran(client, _squares) == [1, 2]


def test_a_worker_that_needs_more_memory_than_it_has_is_killed(client, job) -> None:
    process = job(memory_bytes=1 << 28)
    until(lambda: len(names(client)) == 1)
    before = names(client)
    future = client.submit(_large, 1 << 28, pure=False, resources={"shared": 1})
    until(lambda: names(client) - before)
    future.cancel()
    process.terminate()
    assert "is killed" in process.stdout.read()


def test_it_ends_with_its_workers_when_it_is_told_to(client, job) -> None:
    process = job(processes=2)
    until(lambda: len(names(client)) == 2)
    workers = psutil.Process(process.pid).children()
    process.terminate()
    assert process.wait(30) == 0
    assert not any(worker.is_running() for worker in workers)


def test_its_workers_end_when_it_is_killed(client, job) -> None:
    process = job()
    until(lambda: len(names(client)) == 1)
    (worker,) = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


def test_it_joins_the_scheduler_of_a_restarted_run(scheduler, client, job, tmp_path) -> None:
    first = ClusterProcess({"workers": 0, "memory_per_worker": None, "interface": "lo"})
    connection = first.connection()
    connection.write(tmp_path / "run")
    process = job()
    with connect(connection) as before:
        until(lambda: len(names(before)) == 1)
    first.close()
    scheduler.write(tmp_path / "run")
    until(lambda: len(names(client)) == 1)
    assert process.poll() is None


def test_it_ends_when_no_run_comes(job, tmp_path) -> None:
    (tmp_path / "run" / CONNECTION_FILE).unlink()
    process = job(linger_s=0.1)
    assert process.wait() == 0
    assert "no run to work for" in process.stdout.read()


def test_scheduler_and_workers_listen_on_the_ports_of_the_site_alone(tmp_path) -> None:
    ports = range(23100, 23300)
    allowed = f"{ports[0]}-{ports[-1]}"
    process = ClusterProcess(
        {"workers": 0, "memory_per_worker": None, "interface": "lo", "ports": allowed}
    )
    spec = WorkerSpec(folder=tmp_path, pool="shared", interface="lo", ports=allowed, processes=2)
    try:
        connection = process.connection()
        connection.write(tmp_path)
        environment = {**os.environ, **WORKER_ENVIRONMENT, "PYTHONPATH": import_path()}
        argv = [sys.executable, "-P", "-m", "orchestrator.compute.worker", *spec.arguments()]
        with subprocess.Popen(argv, env=environment) as job, connect(connection) as client:
            until(lambda: len(names(client)) == 2)
            workers = client.scheduler_info(n_workers=-1)["workers"]
            job.terminate()
        used = [int(address.rpartition(":")[2]) for address in (connection.address, *workers)]
    finally:
        process.close()
    assert set(used) <= set(ports)
    assert len(set(used)) == 3


def test_a_range_without_a_free_port_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=str(port)):
            free_port("127.0.0.1", f"{port}-{port}")


CONTEXT = StageContext(run="r", key="stage", site=None, qpu=None, keep_dir=None)


def resident(_unit: int = 0) -> int:
    """Return the bytes in memory of this process."""
    return psutil.Process().memory_info().rss


def hoard(_unit: int = 0) -> int:
    """Free all of many arrays but the last one."""
    import numpy as np

    arrays = [np.ones(1 << 17) for _ in range(300)]
    sys.kept = arrays[-1]
    del arrays[:]
    return resident()


def called(client, function) -> int:
    packed = packed_call(RemoteFunction(dump_by_value(function), CONTEXT), (), {})
    return client.submit(run_packed, packed, pure=False).result().value


def spread(client, function) -> int:
    (value,) = fan_out_on(client, function, [0], Spread(context=CONTEXT, turn_of=lambda _: 0))
    return value


@pytest.mark.parametrize("run", [called, spread])
def test_memory_freed_below_a_block_in_use_is_returned_when_a_function_ends(
    client, job, run
) -> None:
    job()
    until(lambda: names(client))
    during = run(client, hoard)
    left = client.submit(resident).result()
    assert during - left > 200 << 20
