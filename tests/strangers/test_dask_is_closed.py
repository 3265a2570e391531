"""Dask answers only the run's owner: scheduler, nannies and workers, on every port."""

from __future__ import annotations

import os
import stat

import pytest
from distributed import Client, LocalCluster

from orchestrator.compute.local import LocalDask
from orchestrator.compute.nodes import DaskCredentials, security_from
from orchestrator.compute.shared import SharedDask
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.environment import SharedCluster, shared_cluster
from orchestrator.config.errors import ConfigError
from tests.errors import naming
from tests.strangers.stranger import answers, listening, need_strangers


@pytest.fixture(scope="module")
def dask():
    compute = LocalDask(ComputeSettings(name="local", workers=1))
    yield compute
    compute.close()


def cluster_ports(compute: LocalDask) -> list[int]:
    compute.client().wait_for_workers(1)
    process = compute._process._process
    assert process is not None
    ports, named = listening([process.pid])
    assert named == []
    return list(ports)


@pytest.mark.slow
def test_a_stranger_is_refused_by_scheduler_nanny_and_worker(dask):
    need_strangers()
    ports = cluster_ports(dask)
    assert len(ports) == 3, "scheduler, nanny, worker, and no HTTP"
    assert answers(ports) == {port: [] for port in ports}


@pytest.mark.slow
def test_the_intruder_gets_into_an_open_cluster():
    """Else the test above would prove nothing."""
    need_strangers()
    with LocalCluster(
        n_workers=0,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
    ) as cluster:
        port = int(cluster.scheduler_address.rpartition(":")[2])
        assert f"tcp: code ran as {os.getuid()}" in answers([port])[port]


@pytest.mark.slow
def test_credentials_are_on_no_command_line_and_spilled_data_in_a_closed_folder(dask):
    client = dask.client()
    folder = client.run(lambda dask_worker: dask_worker.local_directory)
    above = os.path.dirname(os.path.dirname(next(iter(folder.values()))))  # noqa: PTH120
    assert stat.S_IMODE(os.stat(above).st_mode) == 0o700  # noqa: PTH116
    assert client.run(os.umask, 0o077) == dict.fromkeys(folder, 63)
    assert "PRIVATE KEY" not in " ".join(dask._process._process.args)


@pytest.mark.slow
def test_a_shared_cluster_is_used_with_its_credentials_alone(dask, tmp_path, monkeypatch):
    address = dask.client().scheduler.address
    security = dask.client().security
    pem = tmp_path / "dask.pem"
    DaskCredentials(certificate=security.tls_ca_file, key=security.tls_client_key).write(pem)
    assert stat.S_IMODE(pem.stat().st_mode) == 0o600
    monkeypatch.setenv("HPCQC_DASK_ADDRESS", address)
    monkeypatch.setenv("HPCQC_DASK_CREDENTIALS", str(pem))
    shared = SharedDask(ComputeSettings(name="local", kind="shared"))
    assert shared.client().submit(sum, [1, 2]).result() == 3
    shared.close()
    other = tmp_path / "other.pem"
    DaskCredentials.make().write(other)
    with pytest.raises(OSError, match="TLS"):
        Client(address, security=security_from(other), timeout=10, set_as_default=False)


def named(address: str, credentials: str | None = None) -> dict[str, str]:
    known = {"HPCQC_DASK_ADDRESS": address, "PATH": ""}
    return known if credentials is None else {**known, "HPCQC_DASK_CREDENTIALS": credentials}


def test_a_cluster_without_authentication_is_refused_unless_it_is_asked_for(tmp_path):
    for environ in (named("tcp://127.0.0.1:8786"), named("tls://127.0.0.1:8786")):
        with pytest.raises(ConfigError, match=naming(environ["HPCQC_DASK_ADDRESS"])):
            shared_cluster(environ)
    accepted = shared_cluster(named("tcp://127.0.0.1:8786", "none"))
    assert accepted == SharedCluster(address="tcp://127.0.0.1:8786", credentials=None)
    assert shared_cluster({}) is None


def test_credentials_that_others_may_read_are_refused(tmp_path):
    pem = tmp_path / "dask.pem"
    with pytest.raises(ConfigError, match=naming("No such file", pem)):
        shared_cluster(named("tls://127.0.0.1:8786", str(pem)))
    pem.touch()
    pem.chmod(0o640)
    with pytest.raises(ConfigError, match=naming("chmod 600")):
        shared_cluster(named("tls://127.0.0.1:8786", str(pem)))
    pem.chmod(0o600)
    found = shared_cluster(named("tls://127.0.0.1:8786", str(pem)))
    assert found == SharedCluster(address="tls://127.0.0.1:8786", credentials=pem)
