"""What site files state for decisions of the broker: bounds on the use of a QPU, weights of a choice."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["ChoiceWeights", "ConfigTable", "LeaseBounds", "Rate"]

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


_Weight = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]


class ChoiceWeights(ConfigTable):
    """`[choice]`: what counts where the broker chooses a QPU, as for `--qpu any`."""

    fidelity: _Weight = Field(default=1.0, description="weight of the predicted fidelity")
    wait: _Weight = Field(default=1.0, description="weight of the predicted wait")
    cost: _Weight = Field(default=1.0, description="weight of the predicted cost")
    patience_s: _Seconds = Field(
        default=600.0, description="seconds of waiting that halve what a QPU is worth by its wait"
    )
    prices: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict,
        description="by unit of the sites' bills, what one costs in a currency of your own; without "
        "them, costs in different units are not compared",
        examples=["{ billed-s = 0.5, qpu-s = 0.4 }"],
    )

    @model_validator(mode="after")
    def _weighs_something(self) -> Self:
        if not self.fidelity + self.wait + self.cost:
            raise ValueError("fidelity, wait and cost are all 0; give one of them a weight above 0")
        return self
