"""What a site file may say, checked by Pydantic; errors name the nearest key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from ipaddress import ip_address
from typing import Annotated, Any, Literal, Self
from zoneinfo import available_timezones

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from backends.site_options import SITE_OPTIONS, SiteOption
from backends.suggestions import did_you_mean
from orchestrator.config.site import ConfigError
from orchestrator.config.sizes import SIZE
from orchestrator.names import PROJECT

__all__ = [
    "BrokerSection",
    "ComputeSection",
    "LeaseSection",
    "LimitsSection",
    "QpuSection",
    "RateSection",
    "ScheduleSection",
    "SiteFile",
    "SiteSection",
    "WindowSection",
    "validated",
]

_BROKER_URL = r"^(https?://[^/\s]+/?|unix:.+)$"
_HOST = r"^([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$"
_HOURS = r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$"


def _are_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class SiteSection(_Section):
    """`[site]`: the place as a whole."""

    name: str | None = Field(
        default=None, description="name of the site; the file's name if not given"
    )
    default_qpu: str | None = Field(
        default=None, description="QPU used where nothing names one; may be left out if only one"
    )
    default_compute: str | None = Field(
        default=None, description="compute used by classical stages; may be left out if only one"
    )
    keep_days: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="`hpcqc clean` removes what runs stored that were not used for so many days",
    )
    keep_gib: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="`hpcqc clean` removes what the oldest runs stored, beyond so many GiB in all",
    )


class ComputeSection(_Section):
    """`[compute.NAME]`: where classical stages run."""

    kind: str = Field(
        default="local",
        description="`local`: Dask on this machine; `shared`: the running Dask cluster that "
        "`HPCQC_DASK_ADDRESS` names; or a kind that an installed package registers",
    )
    workers: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="worker processes of one thread each; one per core if not given"
    )
    memory_per_worker: Annotated[str, StringConstraints(pattern=SIZE)] | None = Field(
        default=None,
        description="limit such as `4 GiB`; the machine's memory evenly if not given",
        examples=["'4 GiB'"],
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="anything else the kind takes; "
        'a secret is `{ env = "NAME" }` or `{ file = "PATH" }`',
    )


_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class RateSection(_Section):
    """`rate`: a limit on how often the QPU is started."""

    starts: Annotated[int, Field(ge=1, le=1000)] = Field(
        description="at most so many starts", examples=["10"]
    )
    per_s: _Seconds = Field(description="within any stretch of so many seconds", examples=["60"])


class LeaseSection(_Section):
    """`lease`: how long an iterative loop may keep the QPU between its jobs."""

    longest_s: _Seconds = Field(default=60.0, description="seconds a lease lasts at the most")
    idle_s: _Seconds = Field(
        default=2.0,
        description="seconds without a task at work after which it ends; not more than `longest_s`",
    )

    @model_validator(mode="after")
    def _can_end_idle(self) -> Self:
        if "idle_s" in self.model_fields_set and self.idle_s > self.longest_s:
            raise ValueError(
                f"idle_s = {self.idle_s:g} is more than longest_s = {self.longest_s:g}, so no lease "
                f"would end for being idle; give an idle_s of at most {self.longest_s:g}"
            )
        return self


class WindowSection(_Section):
    """`[[qpu.NAME.schedule.window]]`: when a QPU is closed, or its results are vouched for."""

    kind: Literal["maintenance", "calibration", "quality"] = Field(
        default="maintenance",
        description="nothing runs during `maintenance` and `calibration`; "
        "results outside `quality` windows, if there are any, are provisional",
    )
    title: str = Field(default="", description="what users are told")
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


class ScheduleSection(_Section):
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
    rate: RateSection | None = Field(
        default=None,
        description="`{ starts = 10, per_s = 60 }`: how often it may be started",
        examples=["{ starts = 10, per_s = 60 }"],
    )
    # None stands for `false`: Pydantic would tell of a union by the names of its Python types.
    lease: LeaseSection | None = Field(
        default_factory=LeaseSection,
        description="bounds of leases for iterative loops; `false` grants none",
        examples=["{ longest_s = 60, idle_s = 2 }, or false, which grants none"],
    )
    shares: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict,
        description="what projects are entitled to; 1 for one not named",
        examples=["{ chemistry = 2 }"],
    )
    window: list[WindowSection] = Field(
        default_factory=list,
        description="`[[qpu.NAME.schedule.window]]` tables, see below",
        examples=["tables that begin with [[qpu.NAME.schedule.window]]"],
    )
    calendar: str | None = Field(
        default=None, description="an iCalendar file (`.ics`); its events are maintenance"
    )

    @field_validator("lease", mode="before")
    @classmethod
    def _none_for_false(cls, value: Any) -> Any:
        return None if value is False else value


def _site_option(option: SiteOption) -> Any:
    number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
    kind: Any = number if option.kind is float else str
    return kind | None, Field(default=None, description=option.description)


_site_options: dict[str, Any] = {option.name: _site_option(option) for option in SITE_OPTIONS}
_SiteOptions: Any = create_model("_SiteOptions", __base__=_Section, **_site_options)


class QpuSection(_SiteOptions):  # type: ignore[misc]
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
    schedule: ScheduleSection = Field(
        default_factory=ScheduleSection,
        description="who goes first, and when it is open",
        examples=["{ policy = 'fifo' }"],
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="anything else the backend takes; "
        'a secret is `{ env = "NAME" }` or `{ file = "PATH" }`',
    )


_Size = Annotated[str, StringConstraints(pattern=SIZE)]


class LimitsSection(_Section):
    """`[broker.limits]`: what users and projects may have at a service at a time."""

    open_jobs_per_user: Annotated[int, Field(ge=1)] = Field(
        default=10_000, description="jobs of one user that have not ended; a further one gets 429"
    )
    open_jobs_per_project: Annotated[int, Field(ge=1)] = Field(
        default=50_000, description="jobs of one project that have not ended"
    )
    run_budgets_per_user: Annotated[int, Field(ge=1)] = Field(
        default=2_000,
        description="how often one user may set the budget of a run within a day, since the service "
        "started; then 507",
    )
    stored_per_user: _Size = Field(
        default="4 GiB",
        description="payloads that one user may hand in within a day, since the service started; a "
        "further one gets 507",
        examples=["'4 GiB'"],
    )
    stored_per_project: _Size = Field(
        default="16 GiB",
        description="payloads that one project may hand in within a day",
        examples=["'16 GiB'"],
    )
    reserve: _Size = Field(
        default="256 MiB",
        description="room that submissions leave on the disk of the ledger's file, so that jobs which "
        "run can be recorded; PostgreSQL watches its own",
        examples=["'256 MiB'"],
    )


class BrokerSection(_Section):
    """`[broker]`: the service that many flows share; without one each flow has its own."""

    url: Annotated[str, StringConstraints(pattern=_BROKER_URL)] | None = Field(
        default=None,
        description="`http://HOST:PORT` or `unix:PATH` of a running service; "
        "without it, a broker in the flow's own process",
        examples=["'http://localhost:8700' or 'unix:/run/hpcqc/broker.sock'"],
    )
    token: dict[str, str] | None = Field(
        default=None,
        description='token of the user, as a reference: `{ env = "NAME" }` or `{ file = "PATH" }`; '
        "not needed over a Unix socket",
        examples=["{ env = 'HPCQC_BROKER_TOKEN' }"],
    )
    project: Annotated[str, StringConstraints(pattern=PROJECT)] | None = Field(
        default=None,
        description="the project that pays for the jobs; without it, the user's first one",
        examples=["'chemistry'"],
    )
    priority: Annotated[int, Field(ge=-100, le=100)] = Field(
        default=0,
        description="of the jobs, from -100 to 100; policies may look at it, and a service takes more "
        "than 0 from operators alone",
    )
    share_results: list[Annotated[str, StringConstraints(pattern=PROJECT)]] = Field(
        default_factory=list,
        description="projects of the service that use each other's results again where a stage "
        "asks for that; any other project finds its own alone",
        examples=["['chemistry', 'teaching']"],
    )
    unix_groups: list[Annotated[str, StringConstraints(pattern=PROJECT)]] = Field(
        default_factory=list,
        description="Unix groups that are projects of the service: their members pay with them over "
        "a Unix socket; no other group is a project",
        examples=["['chemistry', 'teaching']"],
    )
    hosts: list[Annotated[str, StringConstraints(pattern=_HOST)]] = Field(
        default_factory=list,
        description="names by which clients of the service address it, beside `localhost` and the "
        "name of its machine; requests for any other are refused",
        examples=["['broker.hilltop.example']"],
    )
    proxies: list[str] = Field(
        default_factory=list,
        description="addresses of reverse proxies before the service, which may hold as many "
        "connections as all clients together",
        examples=["['10.0.0.5']"],
    )
    limits: LimitsSection = Field(
        default_factory=LimitsSection,
        description="`[broker.limits]`, see below",
        examples=["{ open_jobs_per_user = 1000 }"],
    )
    ledger: str | dict[str, str] | None = Field(
        default=None,
        description="SQLAlchemy URL of the service's ledger, or a reference to one; "
        "SQLite in the state folder if not given",
    )

    @field_validator("proxies")
    @classmethod
    def _are_addresses(cls, value: list[str]) -> list[str]:
        for address in value:
            try:
                ip_address(address)
            except ValueError:
                raise ValueError(
                    f"proxies has {address!r}, which is not an IP address; give one such as '10.0.0.5'"
                ) from None
        return value

    @field_validator("ledger", mode="before")
    @classmethod
    def _url_or_reference(cls, value: Any) -> Any:
        if isinstance(value, str) or (isinstance(value, dict) and _are_texts(value.values())):
            return value
        raise ValueError(
            f"{value!r} is no SQLAlchemy URL, such as 'postgresql+psycopg://HOST/hpcqc', nor a "
            "reference to one, such as { env = 'NAME' } or { file = 'PATH' }"
        )


class SiteFile(_Section):
    """A whole `hpcqc.toml`."""

    site: SiteSection = Field(default_factory=SiteSection)
    compute: dict[str, ComputeSection] = Field(default_factory=dict)
    qpu: dict[str, QpuSection] = Field(default_factory=dict)
    broker: BrokerSection = Field(default_factory=BrokerSection)


def validated(raw: Mapping[str, Any], source: str) -> SiteFile:
    """Check a parsed file. Raises `ConfigError` with every fault, one sentence each."""
    try:
        return SiteFile.model_validate(dict(raw))
    except ValidationError as error:
        faults = [_sentence(fault) for fault in error.errors()]
        raise ConfigError(f"{source}: {'; '.join(faults)}") from None


def _sentence(fault: Any) -> str:
    location = [str(part) for part in fault["loc"]]
    *section, key = location
    table = f"[{'.'.join(section)}]" if section else "the file"
    if fault["type"] == "extra_forbidden":
        allowed = _keys_of(section)
        hint = did_you_mean(key, allowed) or f"; it takes: {', '.join(allowed)}"
        return f"unknown key {key!r} in {table}{hint}"
    if fault["type"] == "missing":
        return f"{table} lacks the key {key!r}"
    if fault["type"] == "value_error":  # a sentence of our own about a whole table
        return f"[{'.'.join(location)}]: {fault['ctx']['error']}"
    given = fault["input"]
    said = f"{table} {key} = {str(given).lower() if isinstance(given, bool) else repr(given)}"
    example = _example(section, key)
    if fault["type"] == "string_pattern_mismatch" and example:
        return f"{said}; give one such as {example}"
    if fault["type"] in ("model_type", "dict_type"):  # in Pydantic's words, a Python type
        expectation = "a table"
    else:
        expectation = fault["msg"].removeprefix("Input should be ")
    return f"{said}; it should be {expectation}{', such as ' * bool(example)}{example}"


def _example(section: list[str], key: str) -> str:
    """Return what could stand for a key, as TOML; nothing where that is not known."""
    fields = _model_of(section).model_fields
    named = next((name for name in (key, *reversed(section)) if name in fields), None)
    if named is None:
        return ""
    examples, default = fields[named].examples, fields[named].default
    known = default if isinstance(default, (int, float)) and default else ""
    return str(examples[0]) if examples else f"{known:g}" if known else ""


def _keys_of(section: list[str]) -> list[str]:
    return list(_model_of(section).model_fields)


def _model_of(section: list[str]) -> type[BaseModel]:
    """Return what a table is: names of tables and places in lists lead to the next model."""
    model: type[BaseModel] = SiteFile
    for part in section:
        field = model.model_fields.get(part)
        inner = _SECTIONS.get(part) if field is not None or model is SiteFile else None
        model = inner or model
    return model


_SECTIONS: dict[str, type[BaseModel]] = {
    "site": SiteSection,
    "compute": ComputeSection,
    "qpu": QpuSection,
    "broker": BrokerSection,
    "limits": LimitsSection,
    "schedule": ScheduleSection,
    "rate": RateSection,
    "lease": LeaseSection,
    "window": WindowSection,
}
