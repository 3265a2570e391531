"""How Slurm grants a QPU, as a site file states it."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from orchestrator.config.bounds import ConfigTable
from orchestrator.config.durations import Walltime

__all__ = ["QfwBounds", "SlurmAccess"]

_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.@+-]*$"
_COUNTED = r"^[A-Za-z0-9_][A-Za-z0-9_.@+-]*(:[A-Za-z0-9_.+-]+)*$"
_Name = Annotated[str, StringConstraints(pattern=_NAME, max_length=100)]
_Counted = Annotated[str, StringConstraints(pattern=_COUNTED, max_length=100)]
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


_Count = Annotated[int, Field(ge=1, lt=1 << 32)]
_LargeCount = Annotated[int, Field(ge=1, lt=1 << 64)]


class QfwBounds(ConfigTable):
    """`[qpu.NAME.slurm.qfw]`: for the plugin qfw-slurm, what a run asks of the QPU at the most.

    Each key is the plugin's option of that name, with `-` for `_`; see its manual.
    """

    qpu: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$", max_length=128)] = Field(
        description="name of the QPU at the plugin", examples=["'nwqsim'"]
    )
    workload_kind: Literal["quantum", "hybrid"] = Field(
        default="hybrid", description="whether the run has classical work, too"
    )
    circ_count: _Count = Field(description="circuits in all", examples=["500"])
    max_qubits: _Count = Field(description="qubits of a circuit", examples=["20"])
    max_depth: _LargeCount = Field(description="depth of a circuit", examples=["300"])
    max_shots: _LargeCount = Field(description="shots of a circuit", examples=["4000"])
    max_one_q_gates: _LargeCount | None = Field(
        default=None, description="one-qubit gates of a circuit", examples=["1000"]
    )
    max_two_q_gates: _LargeCount | None = Field(
        default=None, description="two-qubit gates of a circuit", examples=["400"]
    )
    max_measurements: _LargeCount | None = Field(
        default=None, description="measurements of a circuit", examples=["20"]
    )

    def options(self) -> tuple[tuple[str, str], ...]:
        """Return names and values as `sbatch` and `salloc` take them; `srun` does not."""
        given = ((name, getattr(self, name)) for name in type(self).model_fields)
        return tuple(
            (name.replace("_", "-"), str(value)) for name, value in given if value is not None
        )


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
    qfw: QfwBounds | None = Field(
        default=None,
        description="a table, where the site has the plugin qfw-slurm: its jobs carry the options "
        "by which the plugin evaluates and reserves the QPU; needs `account`",
    )

    @property
    def tres(self) -> tuple[str, ...]:
        """Names of the resources that stand for the QPU in Slurm's accounting.

        >>> SlurmAccess(gres="qpu:vlq:1", license="qpu_lab").tres
        ('gres/qpu:vlq', 'license/qpu_lab')
        """
        asked = (("gres", self.gres), ("license", self.license))
        return tuple(f"{kind}/{_without_count(text)}" for kind, text in asked if text is not None)

    @property
    def usable_s(self) -> float:
        """Seconds that a job of this walltime gives to quantum tasks; nothing runs after that.

        Slurm counts whole minutes, and the broker ends a grant two checks before the walltime.

        >>> SlurmAccess(gres="qpu:1", walltime="90 s").usable_s
        110.0
        """
        minutes = math.ceil(self.walltime / timedelta(minutes=1))
        return max(0.0, 60.0 * minutes - 2 * self.check_s)

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if not (self.gres or self.license or self.partition or self.reservation):
            raise ValueError(
                "it names nothing by which Slurm grants the QPU; give gres, license, partition or "
                "reservation"
            )
        if self.qfw is not None and self.account is None:
            raise ValueError("qfw-slurm refuses jobs without an account; give account")
        return self


def _without_count(text: str) -> str:
    """Return the name, with its type, of a resource that is asked for as ``NAME[:TYPE][:COUNT]``."""
    words = text.split(":")
    return ":".join(words[:-1]) if len(words) > 1 and words[-1].isdecimal() else text
