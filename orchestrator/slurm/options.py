"""Options of a site file that speak of Slurm, as frozen tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Self, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from backends.suggestions import did_you_mean
from orchestrator.config.bounds import ConfigTable
from orchestrator.config.compute_tables import BatchTable, ComputeSettings
from orchestrator.config.durations import Walltime
from orchestrator.config.errors import ConfigError
from orchestrator.config.values import size_bytes
from orchestrator.slurm.script import JobResources

__all__ = ["WorkerOptions", "driver_resources", "worker_options"]

_Table = TypeVar("_Table", bound=ConfigTable)


def _bytes_of(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        if not isinstance(value, str):
            raise TypeError
        return size_bytes(value)
    except (TypeError, ValueError):
        raise PydanticCustomError("size", "an amount of memory such as '8 GiB'") from None


_Memory = Annotated[int, Field(ge=1), BeforeValidator(_bytes_of, json_schema_input_type=str)]
_PORTS = re.compile(r"([0-9]{4,5})-([0-9]{4,5})", re.ASCII)
_Line = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]+$")]


class WorkerOptions(ConfigTable):
    """`options` of `[compute.NAME]` with `kind = "slurm"`: what one worker job asks for.

    A worker job has one node. `memory` is in bytes.
    """

    partition: _Line | None = Field(default=None, description="Slurm's default if not given")
    account: _Line | None = Field(default=None, description="the account that pays")
    qos: _Line | None = Field(default=None, description="quality of service")
    reservation: _Line | None = Field(default=None, description="a reservation to run in")
    constraint: _Line | None = Field(
        default=None,
        description="features that nodes must have, as `sbatch --constraint` takes them",
    )
    walltime: Walltime | None = Field(
        default=None,
        description="longest time of a worker job, such as `1 h` or `1-12:00:00`; the "
        "partition's default if not given",
    )
    cores: Annotated[int, Field(ge=1)] = Field(default=1, description="CPUs of a worker job")
    processes: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="worker processes of one thread each in a job, which share its cores and memory "
        "evenly; one per core if not given",
    )
    memory: _Memory | None = Field(
        default=None,
        description="memory of a worker job, such as `8 GiB`; the partition's default if not given",
    )
    gpus: Annotated[int, Field(ge=0)] = Field(default=0, description="GPUs of a worker job")
    gpu_partition: _Line | None = Field(
        default=None,
        description="partition of stages that ask for GPUs; if not given, one that has them",
    )
    nodes_min: Annotated[int, Field(ge=0)] = Field(
        default=0, description="worker jobs that stay while only quantum stages run"
    )
    nodes_max: Annotated[int, Field(ge=1)] = Field(default=1, description="most worker jobs")
    exclusive: bool = Field(default=False, description="whole nodes, whatever `cores` says")
    modules: list[_Line] = Field(
        default_factory=list, description="environment modules that a job loads"
    )
    prologue: list[_Line] = Field(
        default_factory=list, description="lines of shell that a job runs before its worker"
    )
    extra: list[_Line] = Field(
        default_factory=list, description="further options of `sbatch`, such as `--mail-type=END`"
    )
    scratch: _Line | None = Field(
        default=None, description="folder on a node for spilled data; its `TMPDIR` if not given"
    )
    interface: _Line | None = Field(
        default=None,
        description="network interface by which nodes and the run reach each other, such as `ib0`; "
        "if not given, the one with the default route",
    )
    ports: _Line | None = Field(
        default=None,
        description="TCP ports on which the run's scheduler and its workers listen, where a firewall "
        "is between nodes, such as `9000-9200`: one for each worker process of all users on a node, "
        "and one for each run; any if not given",
    )
    python: _Line | None = Field(
        default=None, description="Python on the nodes, with hpcqc; this one if not given"
    )
    linger: Walltime = Field(
        default=timedelta(seconds=60),
        description="how long a worker job waits for its run to come back after that was killed",
    )

    @model_validator(mode="after")
    def _fit_each_other(self) -> Self:
        if self.nodes_min > self.nodes_max:
            raise ValueError(
                f"nodes_min = {self.nodes_min} is more than nodes_max = {self.nodes_max}"
            )
        if self.processes is not None and self.processes > self.cores:
            raise ValueError(
                f"processes = {self.processes} is more than cores = {self.cores}; each process "
                "needs a core"
            )
        return self

    @model_validator(mode="after")
    def _has_ports(self) -> Self:
        if self.ports is None:
            return self
        found = _PORTS.fullmatch(self.ports)
        if found is None or not 1024 <= int(found[1]) <= int(found[2]) <= 65535:
            raise ValueError(
                f"ports = {self.ports!r} is not a range of ports from 1024 to 65535; give one such "
                "as '9000-9200'"
            )
        return self

    @property
    def process_count(self) -> int:
        """Worker processes of a job."""
        return self.processes or self.cores

    @property
    def memory_per_process(self) -> int | None:
        """Bytes that each worker process may use; None for what Slurm gives."""
        return None if self.memory is None else self.memory // self.process_count


def worker_options(settings: ComputeSettings) -> WorkerOptions:
    """Read the options of a compute of kind ``slurm``. Raises `ConfigError` for a wrong one."""
    place = f"[compute.{settings.name}]"
    for name in ("workers", "memory_per_worker"):
        if getattr(settings, name) is not None:
            instead = {"workers": "nodes_max", "memory_per_worker": "memory"}[name]
            raise ConfigError(
                f"{place} {name}: kind 'slurm' does not take it; give {instead} in its options"
            )
    return _checked(WorkerOptions, settings.options, f"{place} options")


def driver_resources(batch: BatchTable) -> JobResources:
    """Return what a driver job asks Slurm for."""
    return JobResources(
        partition=batch.partition,
        account=batch.account,
        qos=batch.qos,
        reservation=batch.reservation,
        walltime=batch.walltime,
        cores=batch.cores,
        memory_bytes=None if batch.memory is None else size_bytes(batch.memory),
    )


def _checked(model: type[_Table], given: Mapping[str, Any], place: str) -> _Table:
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        sentences = "; ".join(_sentence(fault, model) for fault in error.errors())
        raise ConfigError(f"{place}: {sentences}") from None


def _sentence(fault: Any, model: type[ConfigTable]) -> str:
    names = list(model.model_fields)
    key = str(fault["loc"][0]) if fault["loc"] else ""
    if fault["type"] == "extra_forbidden":
        hint = did_you_mean(key, names) or f"; it takes: {', '.join(names)}"
        return f"unknown key {key!r}{hint}"
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    expected = fault["msg"].removeprefix("Input should be ")
    return f"{key} = {fault['input']!r}; it should be {expected}"
