"""What a primitive asks of a broker: one value from the primitive to the ledger, over HTTP too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from orchestrator.broker.core.codec import to_plain
from orchestrator.identity import CallKey, JobId
from orchestrator.names import LINE, PROJECT, RUN

__all__ = ["JobRequest", "LeaseWish"]

_STRICT = ConfigDict(extra="forbid")


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

    A new option is a field here and what uses it. The bounds are checked where a service or a
    ledger reads the request, so they may be widened later but never narrowed.
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

    def job_id(self, digest: str) -> JobId:
        """Return the job of this call with a payload: equal calls are the same job."""
        key = CallKey(
            run=self.run,
            stage=self.stage,
            qpu=self.qpu,
            project=self.project,
            digest=digest,
            occurrence=self.call,
        )
        return key.job

    def to_json(self) -> str:
        """Return it as ASCII JSON; fields that have their default are left out."""
        return json.dumps(to_plain(self), separators=(",", ":"))
