"""Bounds on the use of a QPU, as site files state them and the scheduler keeps them."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["ConfigTable", "LeaseBounds", "Rate"]

_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ConfigTable(BaseModel):
    """A table of a site file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Rate(ConfigTable):
    """`rate`: a limit on how often the QPU is started."""

    starts: Annotated[int, Field(ge=1, le=1000)] = Field(
        description="at most so many starts", examples=["10"]
    )
    per_s: _Seconds = Field(description="within any stretch of so many seconds", examples=["60"])


class LeaseBounds(ConfigTable):
    """`lease`: how long an iterative loop may keep the QPU between its jobs."""

    longest_s: _Seconds = Field(default=60.0, description="seconds a lease lasts at the most")
    idle_s: _Seconds = Field(
        default=2.0,
        description="seconds without a running task after which it ends; not more than `longest_s`",
    )

    @model_validator(mode="after")
    def _can_end_idle(self) -> Self:
        if "idle_s" in self.model_fields_set and self.idle_s > self.longest_s:
            raise ValueError(
                f"idle_s = {self.idle_s:g} is more than longest_s = {self.longest_s:g}, so no lease "
                f"would end for being idle; give an idle_s of at most {self.longest_s:g}"
            )
        return self
