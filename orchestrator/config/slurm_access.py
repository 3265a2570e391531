"""How Slurm grants a QPU, as a site file states it."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from orchestrator.config.bounds import ConfigTable
from orchestrator.config.durations import Walltime

__all__ = ["SlurmAccess"]

_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.@+-]*$"
_COUNTED = r"^[A-Za-z0-9_][A-Za-z0-9_.@+-]*(:[A-Za-z0-9_.+-]+)*$"
_Name = Annotated[str, StringConstraints(pattern=_NAME, max_length=100)]
_Counted = Annotated[str, StringConstraints(pattern=_COUNTED, max_length=100)]
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SlurmAccess(ConfigTable):
    """`[qpu.NAME.slurm]`: the request by which Slurm grants the QPU."""

    gres: _Counted | None = Field(
        default=None,
        description="generic resource of a node, `NAME:COUNT` or `NAME:TYPE:COUNT`",
        examples=["'qpu:1'"],
    )
    license: _Counted | None = Field(
        default=None, description="licence of the cluster, `NAME:COUNT`", examples=["'qpu_vlq:1'"]
    )
    partition: _Name | None = Field(
        default=None,
        description="partition of the jobs that hold the QPU; Slurm's default if not given",
        examples=["'quantum'"],
    )
    reservation: _Name | None = Field(
        default=None,
        description="reservation of the jobs that hold the QPU",
        examples=["'qpu-monday'"],
    )
    account: _Name | None = Field(
        default=None,
        description="account that pays for them; the user's default if not given",
        examples=["'chem'"],
    )
    qos: _Name | None = Field(
        default=None, description="quality of service of them", examples=["'interactive'"]
    )
    walltime: Walltime = Field(
        default=timedelta(minutes=10),
        description="longest time that one job holds the QPU, such as `10 min` or `1-12:00:00`",
        examples=["'10 min'"],
    )
    check_s: _Seconds = Field(
        default=5.0, description="seconds between two queries whether the jobs still run"
    )
    patience_s: _Seconds = Field(
        default=60.0,
        description="seconds without an answer of Slurm after which nothing further starts; tasks "
        "that run go on",
    )
    maintenance: bool = Field(
        default=True,
        description="whether Slurm's reservations with the flag MAINT close the QPU, those that have "
        "its licence, its GRES or all nodes of its partition",
    )

    @property
    def tres(self) -> tuple[str, ...]:
        """Names of the resources that stand for the QPU in Slurm's accounting.

        >>> SlurmAccess(gres="qpu:vlq:1", license="qpu_lab").tres
        ('gres/qpu:vlq', 'license/qpu_lab')
        """
        asked = (("gres", self.gres), ("license", self.license))
        return tuple(f"{kind}/{_without_count(text)}" for kind, text in asked if text is not None)

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if not (self.gres or self.license or self.partition or self.reservation):
            raise ValueError(
                "it names nothing by which Slurm grants the QPU; give gres, license, partition or "
                "reservation"
            )
        return self


def _without_count(text: str) -> str:
    """Return the name, with its type, of a resource that is asked for as ``NAME[:TYPE][:COUNT]``."""
    words = text.split(":")
    return ":".join(words[:-1]) if len(words) > 1 and words[-1].isdecimal() else text
