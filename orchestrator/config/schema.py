"""What a site file may say, checked by Pydantic; errors name the nearest key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from orchestrator.config.site import ConfigError

__all__ = ["BrokerSection", "ComputeSection", "QpuSection", "SiteFile", "SiteSection", "validated"]

_BROKER_URL = r"^(https?://[^/\s]+/?|unix:.+)$"
_PROJECT = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_MEMORY = r"^\s*\d+(\.\d+)?\s*([kKMGT]i?)?B\s*$"


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


class ComputeSection(_Section):
    """`[compute.NAME]`: where classical stages run."""

    kind: Literal["local"] = Field(default="local", description="`local`: Dask on this machine")
    workers: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="worker processes of one thread each; one per core if not given"
    )
    memory_per_worker: Annotated[str, StringConstraints(pattern=_MEMORY)] | None = Field(
        default=None, description="limit such as `4 GiB`; the machine's memory evenly if not given"
    )


class QpuSection(_Section):
    """`[qpu.NAME]`: a quantum device, or something that behaves like one."""

    backend: str = Field(description="name of an installed backend; `hpcqc backends` lists them")
    profile: str | None = Field(
        default=None, description="device profile: a shipped one's name, or the path of a TOML file"
    )
    time_scale: Annotated[float, Field(ge=0, strict=False, allow_inf_nan=False)] | None = Field(
        default=None, description="speed of a profile's clock: 0 never waits, 1 is real time"
    )
    uncertain: Literal["ask", "fail", "adopt-wait"] = Field(
        default="ask",
        description="what becomes of a task that may or may not run: `ask` an operator, `fail` it, "
        "or `adopt-wait`, which waits until it is found",
    )
    longest_task_s: Annotated[float, Field(gt=0, strict=False, allow_inf_nan=False)] | None = Field(
        default=None,
        description="seconds after which a running task is in doubt; never, if not given",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="anything else the backend takes; "
        'a secret is `{ env = "NAME" }` or `{ file = "PATH" }`',
    )


class BrokerSection(_Section):
    """`[broker]`: the service that many flows share; without one each flow has its own."""

    url: Annotated[str, StringConstraints(pattern=_BROKER_URL)] | None = Field(
        default=None,
        description="`http://HOST:PORT` or `unix:PATH` of a running service; "
        "without it, a broker in the flow's own process",
    )
    token: dict[str, str] | None = Field(
        default=None,
        description='token of the user, as a reference: `{ env = "NAME" }` or `{ file = "PATH" }`; '
        "not needed over a Unix socket",
    )
    project: Annotated[str, StringConstraints(pattern=_PROJECT)] | None = Field(
        default=None,
        description="the project that pays for the jobs; without it, the user's first one",
    )
    ledger: str | dict[str, str] | None = Field(
        default=None,
        description="SQLAlchemy URL of the service's ledger, or a reference to one; "
        "SQLite in the state folder if not given",
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
        near = difflib.get_close_matches(key, allowed, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"it takes: {', '.join(allowed)}"
        return f"unknown key {key!r} in {table}; {hint}"
    if fault["type"] == "missing":
        return f"{table} lacks the key {key!r}"
    if fault["type"] == "string_pattern_mismatch":
        return f"{table} {key} = {fault['input']!r}; give a size such as '4 GiB'"
    if location[0] == "compute" and key == "kind":
        return f"{table} kind = {fault['input']!r}; this version knows only 'local'"
    # Pydantic ends its sentences without a full stop and starts them with a capital letter.
    expectation = fault["msg"][0].lower() + fault["msg"][1:]
    return f"{table} {key} = {fault['input']!r}: {expectation}"


def _keys_of(section: list[str]) -> list[str]:
    sections: dict[str, type[BaseModel]] = {
        "site": SiteSection,
        "compute": ComputeSection,
        "qpu": QpuSection,
        "broker": BrokerSection,
    }
    model = sections[section[0]] if section else SiteFile
    return list(model.model_fields)
