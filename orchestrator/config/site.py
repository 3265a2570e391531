"""A whole site file, and what a site is once it has been read: one model for both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from backends.links import Link
from backends.links.link import link_name
from backends.suggestions import did_you_mean
from orchestrator.arguments import expect
from orchestrator.config.bounds import ChoiceWeights, ConfigTable
from orchestrator.config.broker_tables import BrokerSettings
from orchestrator.config.compute_tables import BatchTable, ComputeSettings, ComputeTable
from orchestrator.config.errors import ConfigError
from orchestrator.config.link_tables import LinkTable
from orchestrator.config.qpu_tables import QpuSettings, QpuTable
from orchestrator.config.values import HOST, Label
from orchestrator.data_labels import all_labels
from orchestrator.names import ANY, LINE, PROJECT

__all__ = ["Coupling", "ProjectTable", "Site", "SiteFile", "SiteTable"]

# The couplings of `orchestrator.couplings.policies`, and the choice between them.
Coupling = Literal["exclusive", "split", "multiplexed", "malleable", "gated", "auto"]


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
    labels: list[Label] = Field(
        default_factory=list,
        description="of the data of all jobs; an override adds to them, and `HPCQC_LABELS` does",
        examples=["['embargoed']"],
    )
    jurisdiction: Label | None = Field(
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


class ProjectTable(ConfigTable):
    """`[project.NAME]`: what holds for all jobs of a project."""

    labels: list[Label] = Field(
        default_factory=list,
        description="of the data of its jobs, besides those that a job states",
        examples=["['export-controlled']"],
    )
    jurisdiction: Label | None = Field(
        default=None,
        description="where alone the data of its jobs is processed",
        examples=["'EU'"],
    )


# So long that it fits, with its digest and a stage's key, in the stage of a job.
_QpuName = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=LINE)]


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
    link: dict[Annotated[str, StringConstraints(pattern=HOST)], LinkTable] = Field(
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
