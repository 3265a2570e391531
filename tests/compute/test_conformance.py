"""Every kind of compute passes the suite: local, shared, and one of another package."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import ClassVar

import dask.config
import pytest

from orchestrator.compute.api import Demand, DemandNotMet
from orchestrator.compute.kinds import check_demand, open_compute
from orchestrator.compute.local import LocalDask
from orchestrator.compute.nodes import CALM, DaskCredentials
from orchestrator.compute.shared import SharedDask
from orchestrator.compute.testing import ComputeConformance
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.loading import load_site
from orchestrator.stages import classical, stage_needs
from tests.errors import naming
from tests.packages import addition, installed_package
from tests.worker_jobs import ran


class _Process:
    """Becomes the number of the process that unpickles it."""

    def __reduce__(self):
        return os.getpid, ()


class TestLocal(ComputeConformance):
    kind = LocalDask
    settings: ClassVar = ComputeSettings(name="local", workers=2)

    def test_its_workers_are_calm(self, compute: LocalDask) -> None:
        client = compute.client()
        client.wait_for_workers(1)
        for name, value in CALM.items():
            assert set(client.run(lambda name=name: dask.config.get(name)).values()) == {value}

    def test_arguments_are_unpickled_where_the_function_runs(self, compute: LocalDask) -> None:
        unpickled_by, ran_by = ran(compute, lambda process: (process, os.getpid()), _Process())
        assert unpickled_by == ran_by


class TestShared(ComputeConformance):
    """On the workers of a local one, which stand for those of the agent."""

    kind = SharedDask
    settings: ClassVar = ComputeSettings(name="local", kind="shared", workers=2)

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def cluster(cls, tmp_path_factory):
        running = LocalDask(ComputeSettings(name="local", workers=2))
        client = running.client()
        pem = tmp_path_factory.mktemp("pem") / "dask.pem"
        security = client.security
        DaskCredentials(certificate=security.tls_ca_file, key=security.tls_client_key).write(pem)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HPCQC_DASK_ADDRESS", client.scheduler.address)
            patch.setenv("HPCQC_DASK_CREDENTIALS", str(pem))
            yield
        running.close()


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    place = tmp_path_factory.mktemp("packages")
    points = {"hpcqc.computes": {"plain-dask": "plaindask:PlainDask", "odd": "plaindask:Client"}}
    with installed_package(place, "hpcqc-plaindask", addition("plaindask"), points):
        yield place


@pytest.mark.usefixtures("package")
class TestOfAnotherPackage(ComputeConformance):
    settings: ClassVar = ComputeSettings(name="cluster", kind="plain-dask", workers=2)

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def load(cls, package):
        from plaindask import PlainDask

        cls.kind = PlainDask


def site_with(tmp_path, compute: str):
    path = tmp_path / "hpcqc.toml"
    path.write_text(f'[qpu.q]\nbackend = "fake"\n[compute.big]\n{compute}\n')
    return load_site(path)


@pytest.mark.usefixtures("package")
def test_a_site_file_names_it(tmp_path) -> None:
    stated = 'kind = "plain-dask"\nworkers = 2\noptions = { most_hours = 2 }'
    settings = site_with(tmp_path, stated).compute()
    assert (settings.kind, settings.options) == ("plain-dask", {"most_hours": 2})
    open_compute(settings).close()
    check_demand("relax", Demand(walltime=timedelta(hours=2)), settings)
    with pytest.raises(DemandNotMet) as caught:
        check_demand("relax", Demand(walltime=timedelta(hours=3)), settings)
    words = ["'relax'", "walltime = 3:00:00", "'big'", "'plain-dask'", "2 hours at the most"]
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("compute", "words"),
    [
        ('kind = "lsf"', ["'lsf'", "local, shared, slurm, odd, plain-dask"]),
        ('kind = "odd"', ["'odd'", "ComputeKind"]),
        ('kind = "plain-dask"\noptions = { hours = 2 }', ["most_hours"]),
        ("options = { queue = 'x' }", ["[compute.big] options", "'local'", "queue"]),
        ('kind = "shared"', ["HPCQC_DASK_ADDRESS"]),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, compute, words) -> None:
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        open_compute(site_with(tmp_path, compute).compute())
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("demand", "words"),
    [
        (Demand(gpus=1), ["gpus = 1", "none"]),
        (Demand(nodes=2), ["nodes = 2", "one machine"]),
        (Demand(memory=3 << 30), ["memory = 3 GiB", "2 GiB"]),
    ],
)
def test_local_workers_refuse_what_they_lack(demand, words) -> None:
    settings = ComputeSettings(name="mine", memory_per_worker="2 GiB")
    check_demand("s", Demand(cores=2, memory=2 << 30, walltime=timedelta(days=9)), settings)
    with pytest.raises(DemandNotMet, match=naming("'s'")) as caught:
        check_demand("s", demand, settings)
    assert all(word in str(caught.value) for word in ["'mine' of kind 'local'", *words])


@pytest.mark.parametrize(
    ("amounts", "words"),
    [
        ({"cores": 0}, "cores=0"),
        ({"gpus": -1}, "gpus=-1"),
        ({"nodes": 0}, "nodes=0"),
        ({"memory": "8 gigs"}, naming("8 gigs")),
        ({"walltime": timedelta(0)}, "walltime=0:00:00"),
        ({"walltime": "90 parsecs"}, naming("90 parsecs")),
    ],
)
def test_impossible_demands_are_refused_where_they_are_declared(amounts, words) -> None:
    with pytest.raises(ValueError, match=words):
        classical(**amounts)


def test_a_stage_declares_what_it_needs() -> None:
    @classical(cores=2, memory="1.5 GiB", gpus=1, nodes=3, walltime=timedelta(hours=1))
    def relax() -> None: ...

    assert stage_needs(relax).demand == Demand(
        cores=2, memory=3 << 29, gpus=1, nodes=3, walltime=timedelta(hours=1)
    )


@pytest.mark.parametrize(
    ("text", "seconds"), [("90 min", 5400), ("1 h 30 min", 5400), ("1-12:00:00", 129600)]
)
def test_a_stage_declares_its_walltime_as_site_files_do(text: str, seconds: int) -> None:
    @classical(walltime=text)
    def relax() -> None: ...

    assert stage_needs(relax).demand.walltime == timedelta(seconds=seconds)


def test_a_walltime_of_another_type_is_refused_where_it_is_declared() -> None:
    with pytest.raises(TypeError, match="walltime = 5400"):
        classical(walltime=5400)  # type: ignore[call-overload]


def test_a_stage_declares_how_many_nodes_it_can_use() -> None:
    @classical(nodes=(1, 3))
    def spread() -> None: ...

    demand = stage_needs(spread).demand
    assert (demand.nodes, demand.nodes_max) == (1, 3)
    assert Demand(nodes=2).nodes_max == 2
    assert not LocalDask.lacks(ComputeSettings(name="local"), demand)
    with pytest.raises(ValueError, match=r"nodes=\(3, 1\)"):
        classical(nodes=(3, 1))
