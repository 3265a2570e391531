"""Where a site file has classical stages and whole flows run: `[compute.NAME]`, `[batch]`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from orchestrator.config.bounds import ConfigTable
from orchestrator.config.durations import Walltime
from orchestrator.config.values import Line, SizeText

__all__ = ["COMPUTE_KINDS", "BatchTable", "ComputeSettings", "ComputeTable"]

# Entry point group of kinds of compute that other packages bring.
COMPUTE_KINDS = "hpcqc.computes"


class ComputeTable(ConfigTable):
    """`[compute.NAME]`: where classical stages run."""

    kind: str = Field(
        default="local",
        description="`local`: Dask on this machine; `slurm`: jobs of Slurm; `shared`: the running Dask "
        "cluster that `HPCQC_DASK_ADDRESS` names; or a kind that an installed package registers",
    )
    workers: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="worker processes of one thread each; one per core if not given"
    )
    memory_per_worker: SizeText | None = Field(
        default=None,
        description="limit such as `4 GiB`; the machine's memory evenly if not given",
        examples=["'4 GiB'"],
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="anything else the kind takes; "
        'a secret is `{ env = "NAME" }` or `{ file = "PATH" }`',
    )


class ComputeSettings(ComputeTable):
    """A named compute. options: may hold `SecretRef` values."""

    name: str


class BatchTable(ConfigTable):
    """`[batch]`: the Slurm job in which `hpcqc run --batch` runs a flow."""

    partition: Line | None = Field(default=None, description="Slurm's default if not given")
    account: Line | None = Field(default=None, description="the account that pays")
    qos: Line | None = Field(default=None, description="quality of service")
    reservation: Line | None = Field(default=None, description="a reservation to run in")
    walltime: Walltime | None = Field(
        default=None,
        description="longest time of the job, such as `12 h` or `1-12:00:00`; the partition's "
        "default if not given",
        examples=["'12 h'"],
    )
    cores: Annotated[int, Field(ge=1)] = Field(
        default=1, description="CPUs; simulated QPUs and compute of kind `local` run on them, too"
    )
    memory: SizeText | None = Field(
        default=None,
        description="memory such as `4 GiB`; the partition's default if not given",
        examples=["'4 GiB'"],
    )
    grace: Walltime = Field(
        default=timedelta(seconds=120),
        description="how long before the end of its walltime the job is stopped, to end its "
        "quantum tasks and to be continued",
        examples=["'2 min'"],
    )
    resumes: Annotated[int, Field(ge=0)] = Field(
        default=100,
        description="how often a job that used up its walltime, or was preempted with notice, is "
        "continued in another one",
    )
    modules: list[Line] = Field(
        default_factory=list, description="environment modules that the job loads"
    )
    prologue: list[Line] = Field(
        default_factory=list, description="lines of shell that the job runs before the flow"
    )
    python: Line | None = Field(
        default=None, description="Python on the nodes, with hpcqc; this one if not given"
    )
    extra: list[Line] = Field(
        default_factory=list, description="further options of `sbatch`, such as `--mail-type=END`"
    )

    @model_validator(mode="after")
    def _leaves_time(self) -> Self:
        if self.walltime is not None and self.grace >= self.walltime:
            raise ValueError(
                f"grace = {self.grace} is not less than walltime = {self.walltime}; the flow needs "
                "time before it is stopped"
            )
        return self
