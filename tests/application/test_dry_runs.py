"""A dry run on this machine stands for what its stages will ask of a cluster."""

from __future__ import annotations

from prefect import flow

from hpcqc import classical, estimate

SITE = """
[compute.cluster]
kind = "slurm"
options = { partition = "none-here", gpu_partition = "none-here" }
[qpu.aer]
backend = "aer"
"""


@classical(nodes=2, gpus=1, memory="900 TiB")
def wide() -> int:
    return 7


@flow
def of_a_cluster() -> int:
    return wide()


def test_stages_that_only_a_cluster_can_serve_are_run_dry(tmp_path) -> None:
    site = tmp_path / "site.toml"
    site.write_text(SITE)
    found = estimate(of_a_cluster, site=site)
    assert [(stage.name, stage.runs) for stage in found.stages] == [("wide", 1)]
