"""What a site file may say, and what a site is once it has been read: one model for both."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from ipaddress import ip_address
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
from backends.links import Link
from backends.links.link import QUANTUM_SAFE, link_name
from backends.site_options import SITE_OPTIONS, SiteOption
from backends.suggestions import did_you_mean
from orchestrator.arguments import expect
from orchestrator.config.bounds import ChoiceWeights, ConfigTable, LeaseBounds, Rate
from orchestrator.config.durations import Walltime
from orchestrator.config.errors import ConfigError
from orchestrator.config.secrets import SecretRef
from orchestrator.config.slurm_access import SlurmAccess
from orchestrator.data_labels import all_labels
from orchestrator.names import ANY, LABEL, LINE, PROJECT

if TYPE_CHECKING:
    from backends.api import Target

__all__ = [
    "COMPUTE_KINDS",
    "MANAGED",
    "BatchTable",
    "BrokerLimits",
    "BrokerSettings",
    "ComputeSettings",
    "ComputeTable",
    "Coupling",
    "LinkTable",
    "ProjectTable",
    "QpuSettings",
    "QpuTable",
    "ScheduleSettings",
    "Site",
    "SiteFile",
    "SiteTable",
    "WindowSettings",
    "size_bytes",
]

# Entry point group of kinds of compute that other packages bring.
COMPUTE_KINDS = "hpcqc.computes"
_BROKER_URL = r"^(https?://[^/\s]+/?|unix:.+|link:.+)$"
_HOST = r"^([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$"
_HOURS = r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$"
# The environment that `hpcqc backends install` makes.
MANAGED = "managed"
# What a size looks like, for the schema of a site file.
_SIZE = r"^\s*\d+(\.\d+)?\s*([kKMGT]i?)?B\s*$"

# The couplings of `orchestrator.couplings.policies`, and the choice between them.
Coupling = Literal["exclusive", "split", "multiplexed", "malleable", "gated", "auto"]


def size_bytes(size: str) -> int:
    """Return a size such as ``4 GiB`` or ``500MB`` in bytes. Raises ``ValueError``.

    >>> size_bytes("4 GiB"), size_bytes("1.5kB"), size_bytes("7 B")
    (4294967296, 1500, 7)
    """
    if not re.match(_SIZE, size):
        raise ValueError(f"{size!r} is not an amount of memory; give one such as '4 GiB'")
    number = size.strip().rstrip("B").rstrip("kKMGTi ")
    unit = size.strip().removeprefix(number).strip()
    base = 1024 if "i" in unit else 1000
    return int(float(number) * base ** " KMGT".index(unit.upper()[0] if unit != "B" else " "))


_Label = Annotated[str, StringConstraints(pattern=LABEL)]


class SiteTable(ConfigTable):
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
    coupling: Coupling | None = Field(
        default=None,
        description="how classical and quantum stages share nodes and QPU in time where a compute has "
        "kind `slurm`: `exclusive`, `split`, `multiplexed` (if not given), `malleable`, `gated`, or "
        "`auto`, which predicts them and takes the best",
        examples=["'split'"],
    )
    labels: list[_Label] = Field(
        default_factory=list,
        description="of the data of all jobs; an override adds to them, and `HPCQC_LABELS` does",
        examples=["['embargoed']"],
    )
    jurisdiction: _Label | None = Field(
        default=None,
        description="where alone the data of all jobs is processed",
        examples=["'EU'"],
    )
    keep_days: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="`hpcqc clean` removes what runs stored that were not used for so many days",
    )
    keep_gib: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="`hpcqc clean` removes what the oldest runs stored, beyond so many GiB in all",
    )


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
    memory_per_worker: Annotated[str, StringConstraints(pattern=_SIZE)] | None = Field(
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


def _bytes_of(size: Any) -> Any:
    if not isinstance(size, str):
        return size
    try:
        return size_bytes(size)
    except ValueError:
        raise PydanticCustomError("size", "an amount") from None


_Size = Annotated[int, Field(ge=0), BeforeValidator(_bytes_of, json_schema_input_type=str)]


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
    environment_memory: _Size = Field(
        default=DEFAULT_MEMORY_BYTES,
        description="most memory that the process in `environment` may allocate",
        examples=["'8 GiB'"],
    )
    accepts: list[_Label] = Field(
        default_factory=list,
        description="labels of data that may go to the QPU; data with any other label never does",
        examples=["['embargoed', 'project:chemistry']"],
    )
    jurisdictions: list[_Label] = Field(
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


class BrokerLimits(ConfigTable):
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
        default=4 << 30,
        description="payloads that one user may submit within a day, since the service started; a "
        "further one gets 507",
        examples=["'4 GiB'"],
    )
    stored_per_project: _Size = Field(
        default=16 << 30,
        description="payloads that one project may submit within a day",
        examples=["'16 GiB'"],
    )
    reserve: _Size = Field(
        default=256 << 20,
        description="room that submissions leave on the disk of the ledger's file, so that jobs which "
        "run can be recorded; PostgreSQL watches its own",
        examples=["'256 MiB'"],
    )


class BrokerSettings(ConfigTable):
    """`[broker]`: the service that many flows share; without one each flow has its own."""

    url: Annotated[str, StringConstraints(pattern=_BROKER_URL)] | None = Field(
        default=None,
        description="`http://HOST:PORT` or `unix:PATH` of a running service, or `link:NAME` of a link to "
        "one; without it, a broker in the flow's own process",
        examples=["'http://localhost:8700', 'unix:/run/hpcqc/broker.sock' or 'link:hilltop'"],
    )
    token: SecretRef | None = Field(
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
    limits: BrokerLimits = Field(
        default_factory=BrokerLimits,
        description="`[broker.limits]`, see below",
        examples=["{ open_jobs_per_user = 1000 }"],
    )
    ledger: str | SecretRef | None = Field(
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

    @field_validator("token", mode="before")
    @classmethod
    def _is_reference(cls, value: Any) -> Any:
        if value is None or isinstance(value, SecretRef):
            return value
        raise ValueError(
            "a token is a secret; give a reference instead, "
            'such as { env = "HPCQC_BROKER_TOKEN" } or { file = "PATH" }'
        )

    @field_validator("ledger", mode="before")
    @classmethod
    def _is_url_or_reference(cls, value: Any) -> Any:
        if value is None or isinstance(value, str | SecretRef):
            return value
        raise ValueError(
            f"{value!r} is neither a SQLAlchemy URL, such as 'postgresql+psycopg://HOST/hpcqc', nor "
            "a reference to one, such as { env = 'NAME' } or { file = 'PATH' }"
        )


# So long that it fits, with its digest and a stage's key, in the stage of a job.
_QpuName = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=LINE)]


_Line = Annotated[str, StringConstraints(min_length=1, pattern=LINE)]


class BatchTable(ConfigTable):
    """`[batch]`: the Slurm job in which `hpcqc run --batch` runs a flow."""

    partition: _Line | None = Field(default=None, description="Slurm's default if not given")
    account: _Line | None = Field(default=None, description="the account that pays")
    qos: _Line | None = Field(default=None, description="quality of service")
    reservation: _Line | None = Field(default=None, description="a reservation to run in")
    walltime: Walltime | None = Field(
        default=None,
        description="longest time of the job, such as `12 h` or `1-12:00:00`; the partition's "
        "default if not given",
        examples=["'12 h'"],
    )
    cores: Annotated[int, Field(ge=1)] = Field(
        default=1, description="CPUs; simulated QPUs and compute of kind `local` run on them, too"
    )
    memory: Annotated[str, StringConstraints(pattern=_SIZE)] | None = Field(
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
    modules: list[_Line] = Field(
        default_factory=list, description="environment modules that the job loads"
    )
    prologue: list[_Line] = Field(
        default_factory=list, description="lines of shell that the job runs before the flow"
    )
    python: _Line | None = Field(
        default=None, description="Python on the nodes, with hpcqc; this one if not given"
    )
    extra: list[_Line] = Field(
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


class ProjectTable(ConfigTable):
    """`[project.NAME]`: what holds for all jobs of a project."""

    labels: list[_Label] = Field(
        default_factory=list,
        description="of the data of its jobs, besides those that a job states",
        examples=["['export-controlled']"],
    )
    jurisdiction: _Label | None = Field(
        default=None,
        description="where alone the data of its jobs is processed",
        examples=["'EU'"],
    )


_ADDRESS = r"^(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):[0-9]{1,5}$"
_SERVICE = r"^(unix:.+|(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):[0-9]{1,5})$"


class LinkTable(ConfigTable):
    """`[link.NAME]`: a quantum-safe connection to another site, or the port that other sites use."""

    address: Annotated[str, StringConstraints(pattern=_ADDRESS)] | None = Field(
        default=None,
        description="`HOST:PORT` of the other site; `url = 'link:NAME'` in `[broker]`, or in the options "
        "of a QPU with backend `hpcqc`, then goes there",
        examples=["'broker.hilltop.example:8443'"],
    )
    listen: Annotated[str, StringConstraints(pattern=_ADDRESS)] | None = Field(
        default=None,
        description="`HOST:PORT` at which `hpcqc links serve NAME` lets other sites in",
        examples=["'0.0.0.0:8443'"],
    )
    service: Annotated[str, StringConstraints(pattern=_SERVICE)] | None = Field(
        default=None,
        description="of a link that listens: `HOST:PORT` or token-only `unix:PATH` of the broker behind it",
        examples=["'unix:/run/hpcqc-proxy/broker.sock'"],
    )
    certificate: Annotated[Path, Strict(False)] = Field(
        description="PEM file with this site's certificate", examples=["'links/valley.pem'"]
    )
    key: Annotated[Path, Strict(False)] = Field(
        description="PEM file with its private key, which its owner alone can read",
        examples=["'links/valley.key'"],
    )
    authority: Annotated[Path, Strict(False)] = Field(
        description="PEM file with the authority that certifies the other side",
        examples=["'links/authority.pem'"],
    )
    peers: list[_Line] | None = Field(
        default=None,
        description="names that the other side's certificate may bear; of a link with `address` its own "
        "name, if not given, of one that listens any that the authority certified",
        examples=["['valley']"],
    )
    groups: list[_Line] = Field(
        default=list(QUANTUM_SAFE),
        description="key exchanges that are accepted; any other ends the connection, `[]` accepts all",
        examples=["['X25519MLKEM768']"],
    )

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Self:
        if (self.address is None) == (self.listen is None):
            raise ValueError(
                "give either address, to connect to another site, or listen, to let sites in"
            )
        if self.service is not None and self.listen is None:
            raise ValueError("service belongs to a link that listens")
        return self

    def named(self, name: str) -> Link:
        """Return the link of this table under its name."""
        own = () if self.address is None else (name,)
        return Link(
            name=name,
            address=self.address or "",
            certificate=self.certificate,
            key=self.key,
            authority=self.authority,
            peers=own if self.peers is None else tuple(self.peers),
            groups=tuple(self.groups),
        )


class SiteFile(ConfigTable):
    """A whole `hpcqc.toml`."""

    site: SiteTable = Field(default_factory=SiteTable)
    compute: dict[str, ComputeTable] = Field(default_factory=dict)
    qpu: dict[_QpuName, QpuTable] = Field(default_factory=dict)
    broker: BrokerSettings = Field(default_factory=BrokerSettings)
    batch: BatchTable = Field(default_factory=BatchTable)
    project: dict[Annotated[str, StringConstraints(pattern=PROJECT)], ProjectTable] = Field(
        default_factory=dict
    )
    link: dict[Annotated[str, StringConstraints(pattern=_HOST)], LinkTable] = Field(
        default_factory=dict
    )
    choice: ChoiceWeights = Field(default_factory=ChoiceWeights)


class Site(SiteTable):
    """A place where flows run. source: the site file's path, or ``"built-in laptop"``."""

    name: str
    default_qpu: str
    default_compute: str
    qpus: Mapping[str, QpuSettings]
    computes: Mapping[str, ComputeSettings]
    state_dir: Path
    source: str
    broker: BrokerSettings = Field(default_factory=BrokerSettings)
    batch: BatchTable = Field(default_factory=BatchTable)
    projects: Mapping[str, ProjectTable] = Field(default_factory=dict)
    links: Mapping[str, LinkTable] = Field(default_factory=dict)
    choice: ChoiceWeights = Field(default_factory=ChoiceWeights)

    def qpu(self, name: str | None = None) -> QpuSettings:
        """Return a QPU by name, None for the default; `ConfigError` lists the names."""
        wanted = self.default_qpu if name is None else name
        expect("qpu", wanted, str, "a QPU's name, or None for the default one")
        if wanted in self.qpus:
            return self.qpus[wanted]
        raise ConfigError(
            f"no QPU {wanted!r} at site {self.name!r} ({self.source}); "
            f"it has: {', '.join(self.qpus)}{did_you_mean(wanted, self.qpus)}"
        )

    def link(self, name: str) -> LinkTable:
        """Return a link's table by name; `ConfigError` lists the names."""
        if name in self.links:
            return self.links[name]
        raise ConfigError(
            f"no link {name!r} at site {self.name!r} ({self.source}); it has: "
            f"{', '.join(self.links) or 'none'}{did_you_mean(name, self.links)}"
        )

    def link_of(self, url: str) -> Link | None:
        """Return the link that ``link:NAME`` means, None for any other URL. Raises `ConfigError`."""
        name = link_name(url)
        if name is None:
            return None
        table = self.link(name)
        if table.address is None:
            raise ConfigError(
                f"[link.{name}] of {self.source} lets other sites in; {url!r} needs a link with address"
            )
        return table.named(name)

    def qpus_for(self, name: str | None = None) -> tuple[QpuSettings, ...]:
        """Return the QPUs that a name stands for: all for ``any``; see `qpu`."""
        return tuple(self.qpus.values()) if name == ANY else (self.qpu(name),)

    def qpu_name(self, name: str | None = None) -> str:
        """Return the name of a QPU, or ``any``; see `qpu`."""
        return ANY if name == ANY else self.qpu(name).name

    def project_labels(self, project: str | None) -> tuple[str, ...]:
        """Return the labels of the data of all jobs of a project, those of the site among them."""
        ours = all_labels(self.labels, jurisdiction=self.jurisdiction or "")
        table = None if project is None else self.projects.get(project)
        if table is None:
            return ours
        return all_labels(ours, table.labels, jurisdiction=table.jurisdiction or "")

    @property
    def labels_by_project(self) -> dict[str, tuple[str, ...]]:
        """The labels of the data of all jobs, by project; under "" those of any other one."""
        by_name = {name: self.project_labels(name) for name in self.projects}
        return {"": self.project_labels(None), **by_name}

    def labels_without_service(self, account: str | None) -> tuple[str, ...]:
        """Return the labels of a run that has its own broker, where nobody says which project pays.

        account: of the Slurm job that this is in, if any. A project named like an account that
        Slurm charges for the run is one that pays.
        """
        accesses = (one.slurm for one in self.qpus.values() if one.slurm is not None)
        payers = {
            self.broker.project,
            account,
            self.batch.account,
            *(one.account for one in accesses),
            *(one.options.get("account") for one in self.computes.values()),
        }
        named = (name for name in payers if isinstance(name, str))
        return all_labels(self.project_labels(None), *map(self.project_labels, named))

    def compute(self, name: str | None = None) -> ComputeSettings:
        """Return a compute by name, None for the default; `ConfigError` lists the names."""
        wanted = self.default_compute if name is None else name
        if wanted in self.computes:
            return self.computes[wanted]
        raise ConfigError(
            f"no compute {wanted!r} at site {self.name!r} ({self.source}); "
            f"it has: {', '.join(self.computes)}"
        )
