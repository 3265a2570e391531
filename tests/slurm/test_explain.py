"""Slurm's refusals and reasons are explained with what the user can change."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.slurm import JobResources, explain_reason, explain_refusal, impossible
from orchestrator.slurm.inventory import Licence, parse_partitions

RECORDED = Path(__file__).parent / "recorded" / "22.05"
PARTITIONS = parse_partitions(
    (RECORDED / "partitions.txt").read_text(),
    (RECORDED / "sinfo.txt").read_text(),
    separator="\x1fSEP",
)
LICENSES = {"qpu_lab": Licence(name="qpu_lab", total=2, used=0, free=2)}
FAILED = "sbatch: error: Batch job submission failed: "


@pytest.mark.parametrize(
    ("words", "resources", "named"),
    [
        (
            (
                f"sbatch: error: invalid partition specified: clasical\n{FAILED}Invalid partition name "
                "specified"
            ),
            JobResources(partition="clasical"),
            ["'clasical'", "scavenge", "did you mean 'classical'"],
        ),
        (
            f"{FAILED}Requested node configuration is not available",
            JobResources(gres="qpu:1"),
            ["'classical'", "'qpu'", "quantum has them"],
        ),
        (
            f"{FAILED}Requested node configuration is not available",
            JobResources(partition="quantum", gres="qpu:2"),
            ["'quantum'", "1 'qpu'", "2 asked for"],
        ),
        (
            (
                f"sbatch: error: Memory specification can not be satisfied\n{FAILED}Requested node "
                "configuration is not available"
            ),
            JobResources(memory_bytes=1 << 40),
            ["19.53 GiB", "1024 GiB"],
        ),
        (
            f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)",
            JobResources(walltime=timedelta(days=3)),
            ["1 day", "3 days"],
        ),
        (
            "sbatch: error: Invalid generic resource (gres) specification",
            JobResources(gpus=1),
            ["'gpu:1'", "qpu"],
        ),
        (f"{FAILED}Invalid license specification", JobResources(licenses="x:1"), ["qpu_lab (2)"]),
        (
            f"{FAILED}Invalid account or account/partition combination specified",
            JobResources(account="a"),
            ["'a'", "sacctmgr"],
        ),
        (f"{FAILED}Invalid qos specification", JobResources(qos="q"), ["'q'", "sacctmgr"]),
        (f"{FAILED}Requested reservation is invalid", JobResources(reservation="r"), ["'r'"]),
        (f"{FAILED}Invalid feature specification", JobResources(constraint="c"), ["quantum"]),
    ],
)
def test_a_refusal_names_its_cause(words: str, resources: JobResources, named: list[str]) -> None:
    text = explain_refusal(words, resources, PARTITIONS, LICENSES)
    said = words.splitlines()[-1].removeprefix("sbatch: error: ")
    assert [name for name in [said, *named] if name not in text] == []


def test_a_refusal_that_is_not_known_keeps_slurms_words() -> None:
    assert "the site's own words" in explain_refusal(
        "sbatch: error: the site's own words", JobResources(), {}
    )


@pytest.mark.parametrize(
    "resources",
    [
        JobResources(),
        JobResources(partition="quantum", gres="qpu:1"),
        JobResources(nodes=4, cores=4, memory_bytes=20000 << 20, walltime=timedelta(days=1)),
        JobResources(partition="classical,quantum", nodes=4),
        JobResources(walltime=timedelta(days=9), qos="long"),
        JobResources(partition="quantum,classical", nodes=4),
    ],
)
def test_what_fits_is_possible(resources: JobResources) -> None:
    assert impossible(resources, PARTITIONS) == []


@pytest.mark.parametrize(
    "resources",
    [
        JobResources(partition="nope"),
        JobResources(nodes=5),
        JobResources(nodes=5, qos="wide"),
        JobResources(partition="classical,nope"),
        JobResources(partition="quantum,classical", nodes=5),
        JobResources(cores=5),
        JobResources(cores=2, tasks_per_node=3),
        JobResources(memory_bytes=1 << 40),
        JobResources(gpus=1),
        JobResources(walltime=timedelta(days=2)),
    ],
)
def test_what_does_not_fit_is_impossible(resources: JobResources) -> None:
    assert len(impossible(resources, PARTITIONS)) == 1


def test_of_a_cluster_that_is_not_known_nothing_is_said() -> None:
    assert impossible(JobResources(nodes=99), {}) == []
    assert impossible(JobResources(partition="p"), {}) == []


@pytest.mark.parametrize(
    "reason",
    [
        "PartitionTimeLimit",
        "PartitionNodeLimit",
        "QOSMinCpuNotSatisfied",
        "QOSMinGRES",
        "BadConstraints",
        "InvalidAccount",
        "DependencyNeverSatisfied",
        "JobHeldUser",
        "(launch failed requeued held)",
        "job requeued in held state",
        "AssocMaxCpuPerJobLimit",
        "QOSMaxWallDurationPerJobLimit",
        "QOSMaxNodePerJobLimit",
    ],
)
def test_a_job_that_cannot_start_by_itself(reason: str) -> None:
    assert not explain_reason(reason).can_resolve


@pytest.mark.parametrize(
    "reason",
    [
        "Resources",
        "Priority",
        "Licenses",
        "BeginTime",
        "ReqNodeNotAvail, UnavailableNodes:c[1-2]",
        "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
        "QOSMaxJobsPerUserLimit",
        "AssocGrpCpuLimit",
        "SomethingNew",
        "",
    ],
)
def test_a_job_that_may_start_by_itself(reason: str) -> None:
    assert explain_reason(reason).can_resolve
