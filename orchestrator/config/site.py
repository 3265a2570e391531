"""What a site is once it has been read: frozen values, nothing left to check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from backends.suggestions import did_you_mean

__all__ = [
    "COMPUTE_KINDS",
    "BrokerLimits",
    "BrokerSettings",
    "ComputeSettings",
    "ConfigError",
    "QpuSettings",
    "ScheduleSettings",
    "Site",
    "WindowSettings",
]


class ConfigError(ValueError):
    """The configuration cannot be used; the message names the file, the value and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSettings:
    """A window of a QPU's calendar: once, or at the same hours of every day, or of some weekdays.

    start, end: of a window that comes once, with their time zone. daily: ``"HH:MM-HH:MM"`` in
    ``zone``; weekdays: such as ``("mon", "thu")``, every day if empty.
    """

    kind: Literal["maintenance", "calibration", "quality"] = "maintenance"
    title: str = ""
    start: datetime | None = None
    end: datetime | None = None
    daily: str | None = None
    weekdays: tuple[str, ...] = ()
    zone: str = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSettings:
    """How a QPU's queue is served.

    parameters: of the policy. slice_s: QPU-seconds of a slice, 0 for no slices. rate: starts, and
    the seconds they are counted in. lease: longest and idle seconds, None for no leases. shares:
    of projects. calendar: an iCalendar file with closures, beside the windows.
    """

    policy: str = "weighted"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    slice_s: float = 10.0
    rate: tuple[int, float] | None = None
    lease: tuple[float, float] | None = (60.0, 2.0)
    shares: Mapping[str, float] = field(default_factory=dict)
    windows: tuple[WindowSettings, ...] = ()
    calendar: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QpuSettings:
    """A named QPU of the site: which backend drives it, with which options.

    options: what the backend's factory gets; may hold `SecretRef` values, which
    `resolve_secrets` turns into text just before the backend is made.
    uncertain: what becomes of a task that may or may not run; longest_task_s: after which time a
    running one is in doubt, too. schedule: who goes first there, and when.
    """

    name: str
    backend: str
    options: Mapping[str, Any] = field(default_factory=dict)
    uncertain: Literal["ask", "fail", "adopt-wait"] = "ask"
    longest_task_s: float | None = None
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)


# Entry point group of kinds of compute that other packages bring.
COMPUTE_KINDS = "hpcqc.computes"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeSettings:
    """A named compute of the site: its kind, and what workers it has.

    workers: processes of one thread each; None lets the kind choose, and ``local`` takes one for
    each core that this process may use. memory_per_worker: such as ``"4 GiB"``; None shares the
    machine's memory evenly. options: of the kind; may hold `SecretRef` values.
    """

    name: str
    kind: str = "local"
    workers: int | None = None
    memory_per_worker: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerLimits:
    """What users and projects may have at a service at a time, and what its disk must keep free.

    stored_per_user, stored_per_project: bytes of payloads within a day; reserve: bytes.
    run_budgets_per_user: budgets set for runs within a day.
    """

    open_jobs_per_user: int = 10_000
    open_jobs_per_project: int = 50_000
    run_budgets_per_user: int = 2_000
    stored_per_user: int = 4 << 30
    stored_per_project: int = 16 << 30
    reserve: int = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """Where quantum jobs go: a service that many flows share, or none, for one of the flow's own.

    url: ``http://HOST:PORT`` or ``unix:PATH``; None runs a broker in the flow's process.
    token: a `SecretRef`; None over a Unix socket, whose peer is known.
    project: who pays for this site's jobs, None for the user's first one. priority: of this
    site's jobs, where a policy looks at it. ledger: what a service started from this site keeps
    its record in, a SQLAlchemy URL or a `SecretRef` to one; None for SQLite in the state folder.
    share_results: projects that use each other's results again. unix_groups: those that are
    projects. hosts: names of the service in Host headers. proxies: addresses of reverse proxies.
    limits: of users and projects at a service.
    """

    url: str | None = None
    token: Any = None
    project: str | None = None
    priority: int = 0
    ledger: Any = None
    share_results: tuple[str, ...] = ()
    unix_groups: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    limits: BrokerLimits = BrokerLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One place where flows run: its QPUs, its compute, and where state is kept.

    source: where this came from, ``"built-in laptop"`` or the file's path.
    keep_days, keep_gib: what ``hpcqc clean`` leaves of what runs have stored; None is no limit.
    """

    name: str
    default_qpu: str
    default_compute: str
    qpus: Mapping[str, QpuSettings]
    computes: Mapping[str, ComputeSettings]
    state_dir: Path
    source: str
    broker: BrokerSettings = BrokerSettings()
    keep_days: float | None = None
    keep_gib: float | None = None

    def qpu(self, name: str | None = None) -> QpuSettings:
        """Return a QPU by name, the default one for None.

        Raises `ConfigError` with the names there are.
        """
        wanted = self.default_qpu if name is None else name
        if wanted in self.qpus:
            return self.qpus[wanted]
        raise ConfigError(
            f"no QPU {wanted!r} at site {self.name!r} ({self.source}); "
            f"it has: {', '.join(self.qpus)}{did_you_mean(wanted, self.qpus)}"
        )

    def compute(self, name: str | None = None) -> ComputeSettings:
        """Return a compute by name, the default one for None.

        Raises `ConfigError` with the names there are.
        """
        wanted = self.default_compute if name is None else name
        if wanted in self.computes:
            return self.computes[wanted]
        raise ConfigError(
            f"no compute {wanted!r} at site {self.name!r} ({self.source}); "
            f"it has: {', '.join(self.computes)}"
        )
