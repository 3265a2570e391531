"""What a primitive asks of a broker: one value from the primitive to the ledger, over HTTP too."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from orchestrator.broker.core.codec import to_plain
from orchestrator.identity import CallKey, JobId
from orchestrator.names import EXPECTED, LABEL, LINE, PROJECT, RUN

__all__ = ["InvalidRequest", "JobRequest", "LeaseWish"]

# It holds for `JobSubmitted`, too, in place of the codec's own.
_STRICT = ConfigDict(
    extra="forbid",
    strict=True,
    allow_inf_nan=False,
    revalidate_instances="always",
    ser_json_inf_nan="constants",
)
_SHOWN = 60
_MOST_LABELS = 32


class InvalidRequest(ValueError):
    """A field of a request has a wrong type or is out of bounds; nothing was submitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseWish:
    """What an iterative loop asks for: to keep the QPU between its jobs, within bounds.

    id: the same for all jobs of the loop. longest_s, idle_s: as `Lease` has them; the site's
    own bounds hold where they are shorter.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    id: Annotated[str, Field(min_length=1, max_length=300, pattern=LINE)]
    longest_s: Annotated[float, Field(gt=0)]
    idle_s: Annotated[float, Field(gt=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """One call of a primitive, without its payload.

    A new option is a field here and what uses it. A service checks the bounds when it reads a
    request, and every broker before it admits a new job; the ledger is read without them.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    run: Annotated[str, Field(pattern=RUN, description="id of the run")]
    qpu: Annotated[str, Field(min_length=1, max_length=200, pattern=LINE)]
    stage: Annotated[str, Field(max_length=200, pattern=LINE)] | None = None
    call: Annotated[
        int, Field(ge=0, le=2**31, description="equal calls that the stage made before")
    ] = 0
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    project: Annotated[
        str, Field(pattern=PROJECT, description="who pays; the caller's first if left out")
    ] = ""
    priority: Annotated[
        int, Field(ge=-100, le=100, description="higher goes first; above 0 for operators")
    ] = 0
    lease: LeaseWish | None = None
    calibration: Annotated[
        str,
        Field(
            max_length=200,
            pattern=LINE,
            description="id of the one that circuits were transpiled for; empty if for none",
        ),
    ] = ""
    may_reuse: Annotated[
        bool, Field(description="whether the result of an equal, completed job will do")
    ] = False
    slurm_job: (
        Annotated[
            int,
            Field(ge=1, lt=2**63, description="id of the caller's Slurm job that holds the QPU"),
        ]
        | None
    ) = None
    flow: Annotated[
        str, Field(max_length=200, pattern=LINE, description="name of the run's flow")
    ] = ""
    coupling: Annotated[
        str,
        Field(
            max_length=200,
            pattern=LINE,
            description="how the run's stages share nodes and QPU in time",
        ),
    ] = ""
    labels: Annotated[
        tuple[Annotated[str, Field(pattern=LABEL)], ...],
        Field(
            max_length=_MOST_LABELS,
            description="of its data; the QPU must accept each. `jurisdiction:NAME` and "
            "`project:NAME` say where, and for whom alone, it may be processed",
        ),
    ] = ()

    failover: Annotated[
        str,
        Field(
            max_length=200,
            pattern=LINE,
            description="QPU for what is left of it if its own QPU fails or is drained; none if empty",
        ),
    ] = ""
    in_place_of: Annotated[
        str,
        Field(
            max_length=200,
            pattern=LINE,
            description="QPU that its stage is for and that cannot be reached; none if empty",
        ),
    ] = ""
    in_place_for: Annotated[
        str, Field(max_length=1000, pattern=LINE, description="why it is not sent there")
    ] = ""

    def checked(self) -> JobRequest:
        """Return it with Python's own numbers. Raises `InvalidRequest`."""
        try:
            # An empty project stands for the caller's first one.
            named = replace(self, project=self.project or "default")
            return replace(_requests().validate_python(named), project=self.project)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in fault["loc"])
        given = repr(fault["input"])
        shown = given if len(given) <= _SHOWN else f"{given[:_SHOWN]}..."
        expected = EXPECTED.get(fault.get("ctx", {}).get("pattern", ""))
        bound = fault["msg"].partition(" ")[2]  # without "Input" or "String"
        raise InvalidRequest(f"invalid {field} {shown} of a job: {expected or f'it {bound}'}")

    def job_id(self, digest: str) -> JobId:
        """Return the job of this call with a payload: equal calls are the same job."""
        key = CallKey(
            run=self.run,
            stage=self.stage,
            qpu=self.qpu,
            project=self.project,
            digest=digest,
            occurrence=self.call,
            labels=self.labels,
        )
        return key.job

    def to_json(self) -> str:
        """Return it as ASCII JSON; fields that have their default are left out."""
        return json.dumps(to_plain(self), separators=(",", ":"))


@cache
def _requests() -> TypeAdapter[JobRequest]:
    return TypeAdapter(JobRequest)
