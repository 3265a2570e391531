"""`[qpu.NAME]` of a site file: a QPU, when it is open, and who goes first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from zoneinfo import available_timezones

from pydantic import (
    BeforeValidator,
    Field,
    Strict,
    StringConstraints,
    create_model,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from backends.child.environment import DEFAULT_MEMORY_BYTES
from backends.coupling_class import CouplingClass
from backends.site_options import SITE_OPTIONS, SiteOption
from orchestrator.config.bounds import ConfigTable, LeaseBounds, Rate
from orchestrator.config.slurm_access import SlurmAccess
from orchestrator.config.values import Label, Size

if TYPE_CHECKING:
    from backends.api import Target

__all__ = ["MANAGED", "QpuSettings", "QpuTable", "ScheduleSettings", "WindowSettings"]

# The environment that `hpcqc backends install` makes.
MANAGED = "managed"
_HOURS = r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$"
_Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class WindowSettings(ConfigTable):
    """`[[qpu.NAME.schedule.window]]`: when a QPU is closed, or its results are vouched for."""

    kind: Literal["maintenance", "calibration", "quality"] = Field(
        default="maintenance",
        description="nothing runs during `maintenance` and `calibration`; "
        "results outside `quality` windows, if there are any, are provisional",
    )
    title: str = Field(default="", description="shown to users")
    start: datetime | None = Field(default=None, description="of a window that comes once")
    end: datetime | None = Field(default=None, description="of a window that comes once")
    daily: Annotated[str, StringConstraints(pattern=_HOURS)] | None = Field(
        default=None,
        description="`HH:MM-HH:MM`, for one that comes every day; may go over midnight, and the "
        "same hour twice, with `weekdays`, is a whole day from then on",
        examples=["'08:00-09:30'"],
    )
    weekdays: list[_Weekday] = Field(
        default_factory=list, description="of a daily window: only these days (`mon` to `sun`)"
    )
    zone: str = Field(default="UTC", description="time zone of `daily`, such as `Europe/Prague`")

    @model_validator(mode="after")
    def _says_when(self) -> Self:
        once = self.start is not None and self.end is not None
        if (self.daily is not None) == once or (self.start is None) != (self.end is None):
            raise ValueError("give either start and end, or daily")
        if self.start is not None and self.end is not None:
            if self.start.tzinfo is None or self.end.tzinfo is None:
                raise ValueError("start and end need a time zone, such as 2026-12-01T08:00:00Z")
            if self.end <= self.start:
                raise ValueError("end must come after start")
        if self.weekdays and self.daily is None:
            raise ValueError("weekdays belong to a daily window")
        begin, _, end = (self.daily or "").partition("-")
        if self.daily is not None and begin == end and len(set(self.weekdays)) in (0, 7):
            raise ValueError(
                f"daily = {self.daily!r} is all day, every day; give two hours, such as "
                "'03:00-03:30', or the weekdays that it is meant for"
            )
        if self.zone not in available_timezones():
            raise ValueError(f"zone {self.zone!r} is not known; give one such as 'Europe/Prague'")
        return self


class ScheduleSettings(ConfigTable):
    """`[qpu.NAME.schedule]`: who goes first on a QPU, and when it is open."""

    policy: str = Field(
        default="weighted",
        description="`fifo`, `priority`, `fair-share`, `shortest`, `weighted`, or one that an "
        "installed package registers",
    )
    parameters: dict[str, float] = Field(
        default_factory=dict, description="of the policy; its page lists them"
    )
    slice_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=10.0,
        description="QPU-seconds after which a longer job lets others in between; less than ten "
        "times what a start takes works as that; 0 never cuts",
    )
    rate: Rate | None = Field(
        default=None,
        description="`{ starts = 10, per_s = 60 }`: how often it may be started",
        examples=["{ starts = 10, per_s = 60 }"],
    )
    # None stands for `false`: errors about a union would name Python types.
    lease: LeaseBounds | None = Field(
        default_factory=LeaseBounds,
        description="bounds of leases for iterative loops; `false` grants none",
        examples=["{ longest_s = 60, idle_s = 2 }, or false, which grants none"],
    )
    shares: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict,
        description="what projects are entitled to; 1 for one not named",
        examples=["{ chemistry = 2 }"],
    )
    window: list[WindowSettings] = Field(
        default_factory=list,
        description="`[[qpu.NAME.schedule.window]]` tables, see below",
        examples=["tables that begin with [[qpu.NAME.schedule.window]]"],
    )
    calendar: Annotated[Path, Strict(False)] | None = Field(
        default=None, description="an iCalendar file (`.ics`); its events are maintenance"
    )

    @field_validator("lease", mode="before")
    @classmethod
    def _none_for_false(cls, value: Any) -> Any:
        return None if value is False else value

    @field_serializer("lease")
    def _false_for_none(self, value: LeaseBounds | None) -> Any:
        return False if value is None else value.model_dump()


def _where(value: Any) -> Any:
    """Return an environment as its text or its command. Lists come from TOML, tuples from here."""
    words = (
        [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else []
    )
    if not words or not all(isinstance(word, str) and word for word in words):
        raise PydanticCustomError("environment", "an environment")
    if isinstance(value, str) and value != MANAGED and "/" not in value:
        raise PydanticCustomError("environment", "an environment")
    return value if isinstance(value, str) else tuple(words)


_Environment = Annotated[
    str | tuple[str, ...], BeforeValidator(_where, json_schema_input_type=str | list[str])
]


class _Qpu(ConfigTable):
    """`[qpu.NAME]`: a quantum device, or something that behaves like one."""

    backend: str = Field(description="name of an installed backend; `hpcqc backends` lists them")
    uncertain: Literal["ask", "fail", "adopt-wait"] = Field(
        default="ask",
        description="what becomes of a task that may or may not run: `ask` an operator, `fail` it, "
        "or `adopt-wait`, which waits until it is found",
    )
    longest_task_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="seconds after which a running task is in doubt; never, if not given",
    )
    coupling_class: CouplingClass | None = Field(
        default=None,
        description="how closely programs can be coupled to the QPU: `batch`, `interactive` or `realtime`; "
        "if not given, as its backend states",
        examples=["'batch'"],
    )
    schedule: ScheduleSettings = Field(
        default_factory=ScheduleSettings,
        description="who goes first, and when it is open",
        examples=["{ policy = 'fifo' }"],
    )
    slurm: SlurmAccess | None = Field(
        default=None,
        description="how Slurm grants the QPU; without it the broker alone shares it",
        examples=["{ gres = 'qpu:1', partition = 'quantum' }"],
    )
    environment: _Environment | None = Field(
        default=None,
        description="Python environment in which the backend runs, in a process of its own: `managed`, "
        "made by `hpcqc backends install`; the path of an interpreter; or a container's command as a "
        "list. Without it the backend runs in hpcqc's own processes",
        examples=["'managed', '/opt/sdk/bin/python' or a list with a command"],
    )
    environment_memory: Size = Field(
        default=DEFAULT_MEMORY_BYTES,
        description="most memory that the process in `environment` may allocate",
        examples=["'8 GiB'"],
    )
    accepts: list[Label] = Field(
        default_factory=list,
        description="labels of data that may go to the QPU; data with any other label never does",
        examples=["['embargoed', 'project:chemistry']"],
    )
    jurisdictions: list[Label] = Field(
        default_factory=list,
        description="where the QPU processes data; data labelled for another place never goes there",
        examples=["['DE', 'EU']"],
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="anything else the backend takes; "
        'a secret is `{ env = "NAME" }` or `{ file = "PATH" }`',
    )


class QpuSettings(_Qpu):
    """A named QPU. options: with those of `SITE_OPTIONS`; may hold `SecretRef` values."""

    name: str

    def as_stated(self, target: Target) -> Target:
        """Return what the backend publishes, with what the site file states in its place."""
        if self.coupling_class is None:
            return target
        return replace(target, coupling_class=self.coupling_class)


def _site_option(option: SiteOption) -> Any:
    number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
    kind: Any = number if option.kind is float else str
    return kind | None, Field(default=None, description=option.description)


_site_options: dict[str, Any] = {option.name: _site_option(option) for option in SITE_OPTIONS}
QpuTable: Any = create_model("QpuTable", __base__=_Qpu, __doc__=_Qpu.__doc__, **_site_options)
