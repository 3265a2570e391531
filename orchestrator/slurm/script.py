"""The text of a batch script: what the shell and ``sbatch`` read is what was meant (pure)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from orchestrator.slurm.errors import JobScriptError

__all__ = ["JobResources", "JobScript"]

_PLAIN = re.compile(r"[A-Za-z0-9_.,:;/@%+=^-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_OPTION = re.compile(r"--(?P<name>[a-z][a-z0-9-]*)(?:[= ](?P<value>.*))?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MODULE = re.compile(r"[A-Za-z0-9_.+/@:-]+")
# Slurm stores a script, and shows it to operators and, where the site keeps scripts, in sacct.
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|API_?KEY|PRIVATE_?KEY", re.IGNORECASE)
_MOST_LETTERS = 4000  # sbatch reads an option into a buffer of fixed size
# What the script says itself, or leaves as it is; another value would break what is promised of it:
# on another cluster, say, no query finds the job.
_OURS = frozenset(
    [
        "array",
        "chdir",
        "clusters",
        "comment",
        "dependency",
        "error",
        "export",
        "hold",
        "input",
        "job-name",
        "kill-on-invalid-dep",
        "no-requeue",
        "open-mode",
        "output",
        "parsable",
        "requeue",
        "signal",
        "test-only",
        "wait",
        "wrap",
    ]
)
_MODULE_COMMAND = (
    "if ! command -v module >/dev/null 2>&1; then",
    "  for hpcqc_file in /etc/profile.d/{modules,lmod,z00_lmod}.sh; do",
    '    [ -r "$hpcqc_file" ] && . "$hpcqc_file"',
    "  done",
    "fi",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResources:
    """What one component of a job asks Slurm for; None leaves it to the cluster's default.

    Attributes:
        walltime: Most time from start to end; Slurm counts whole minutes and rounds up.
        nodes: Number of nodes, the least one if there is a most one.
        nodes_max: Most nodes, of which Slurm gives as many as are free; None for exactly ``nodes``.
        tasks_per_node: Processes on each node; None for 1.
        cores: CPUs of each task.
        memory_bytes: Memory on each node.
        gpus: GPUs on each node.
        gres: Further generic resources on each node, as ``qpu:1``.
        licenses: As ``qpu_lab:1``; of a heterogeneous job, the first component has them all.
        exclusive: Whether no other job may use its nodes.
        constraint: Features that its nodes must have.
        plugin_options: Options of ``sbatch`` that a plugin of the site reads, with their values.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    reservation: str | None = None
    walltime: timedelta | None = None
    nodes: int = 1
    nodes_max: int | None = None
    tasks_per_node: int | None = None
    cores: int | None = None
    memory_bytes: int | None = None
    gpus: int = 0
    gres: str | None = None
    licenses: str | None = None
    exclusive: bool = False
    constraint: str | None = None
    plugin_options: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for name in ("nodes", "nodes_max", "tasks_per_node", "cores", "memory_bytes"):
            amount = getattr(self, name)
            if amount is not None and amount < 1:
                raise JobScriptError(f"invalid {name} {amount}: expected at least 1")
        if self.gpus < 0:
            raise JobScriptError(f"invalid gpus {self.gpus}: expected 0 or more")
        if self.walltime is not None and self.walltime <= timedelta():
            raise JobScriptError(f"invalid walltime {self.walltime}: expected more than 0 s")

    @property
    def all_gres(self) -> str:
        """The generic resources of each node, GPUs among them; empty for none."""
        gpus = [f"gpu:{self.gpus}"] if self.gpus else []
        return ",".join([*gpus, *([self.gres] if self.gres else [])])

    def options(self) -> Iterator[tuple[str, str | None]]:
        """Yield the options of ``sbatch`` that ask for this, with their values."""
        named = ("partition", "account", "qos", "reservation", "constraint", "licenses")
        yield from ((name, value) for name in named if (value := getattr(self, name)) is not None)
        if self.walltime is not None:
            yield "time", _duration(self.walltime)
        if self.nodes_max in (None, self.nodes):
            yield "nodes", str(self.nodes)
            yield "ntasks-per-node", str(self.tasks_per_node or 1)
        else:  # with a number of tasks, Slurm would give no more nodes than they need
            yield "nodes", f"{self.nodes}-{self.nodes_max}"
        if self.cores is not None:
            yield "cpus-per-task", str(self.cores)
        if self.memory_bytes is not None:
            yield "mem", f"{-(-self.memory_bytes // (1 << 20))}M"
        if self.all_gres:
            yield "gres", self.all_gres
        if self.exclusive:
            yield "exclusive", None
        yield from self.plugin_options


@dataclass(frozen=True, slots=True, kw_only=True)
class JobScript:
    """A batch script, to be submitted once.

    Attributes:
        name: Name of the job, for people.
        tag: Its comment, which no other job of the user has: by it a lost submission is found.
        resources: What the job, or its first component, asks for.
        also: What the further components of a heterogeneous job ask for.
        body: Lines of shell, run by bash; quote what they hold with ``shlex``.
        directory: Working directory.
        output: File for standard output and error, taken literally: ``%j`` is no job id. A restart
            appends to it.
        held: Whether the job waits until it is released.
        requeue: Whether Slurm may run it again after a failure of a node or a preemption.
        signal_s: Seconds before the end of the walltime at which the script gets SIGTERM.
        dependency: As ``afterok:12``; the job is cancelled if it can never be met.
        prologue: Lines of shell before the body, after the modules.
        modules: Environment modules to load; the job fails if one of them cannot be loaded.
        environment: Variables to set. No secrets: Slurm stores the script.
        extra: Further options, as ``--mail-type=END``.
    """

    name: str
    tag: str
    resources: JobResources
    also: tuple[JobResources, ...] = ()
    body: tuple[str, ...]
    directory: Path
    output: Path
    held: bool = False
    requeue: bool = False
    signal_s: int | None = None
    dependency: str | None = None
    prologue: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the script.

        Returns:
            Text in UTF-8 that bash and ``sbatch`` read. Files that the job makes are its owner's
            alone (``umask 077``).

        Raises:
            JobScriptError: A value cannot be written into a script: it has control characters, a
                variable seems to hold a secret, an option is not the user's to choose, ….
        """
        lines = ["#!/bin/bash"]
        lines += (_directive(name, value) for name, value in self._options())
        lines += (_extra(option) for option in self.extra)
        for resources in self.also:
            if resources.licenses is not None:
                raise JobScriptError(
                    f"licences {resources.licenses!r} of a further component: Slurm counts those "
                    "of the first one only; ask for them there"
                )
            lines.append("#SBATCH hetjob")
            lines += (_directive(name, value) for name, value in resources.options())
        lines += ["", "umask 077"]
        if self.modules:
            lines += _MODULE_COMMAND
            lines += (_load(module) for module in self.modules)
        lines += (f"export {name}={_exported(name, value)}" for name, value in self._variables())
        lines += (_shell(line) for line in (*self.prologue, *self.body))
        text = "\n".join(lines) + "\n"
        if "\r\n" in text:
            raise JobScriptError(
                "sbatch refuses scripts with DOS line ends: remove the CR characters"
            )
        return text

    def _options(self) -> Iterator[tuple[str, str | None]]:
        yield "job-name", self.name
        yield "comment", self.tag
        yield "chdir", str(_absolute("directory", self.directory))
        yield "output", str(_absolute("output", self.output)).replace("%", "%%")
        yield "open-mode", "append"
        yield "export", "ALL"
        yield ("requeue" if self.requeue else "no-requeue"), None
        if self.held:
            yield "hold", None
        if self.signal_s is not None:
            yield "signal", f"B:TERM@{self.signal_s}"
        if self.dependency is not None:
            yield "dependency", self.dependency
            yield "kill-on-invalid-dep", "yes"
        yield from self.resources.options()

    def _variables(self) -> list[tuple[str, str]]:
        return sorted(self.environment.items())


def _directive(name: str, value: str | None) -> str:
    if value is None:
        return f"#SBATCH --{name}"
    if not value:
        raise JobScriptError(f"empty value for --{name}: leave the option out, or give it a value")
    return f"#SBATCH --{name}={_quoted(name, value)}"


def _quoted(name: str, value: str) -> str:
    """Quote a value as sbatch reads it: between double quotes a backslash saves what follows."""
    if _CONTROL.search(value):
        raise JobScriptError(
            f"invalid value {value!r} for --{name}: expected one line without control characters"
        )
    if len(value.encode()) > _MOST_LETTERS:
        raise JobScriptError(f"value of --{name} is longer than {_MOST_LETTERS} bytes; shorten it")
    if _PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _extra(option: str) -> str:
    found = _OPTION.fullmatch(option)
    if found is None:
        raise JobScriptError(
            f"invalid option {option!r} for sbatch: expected --NAME or --NAME=VALUE"
        )
    # sbatch takes the beginning of a name for the whole.
    ours = next((name for name in sorted(_OURS) if name.startswith(found["name"])), None)
    if ours is not None:
        raise JobScriptError(
            f"option {option!r} for sbatch: hpcqc needs --{ours} as it is, to find and end its jobs; "
            "leave it out"
        )
    return _directive(found["name"], found["value"])


def _absolute(name: str, path: Path) -> Path:
    if not path.is_absolute() or "\\" in str(path):
        raise JobScriptError(
            f"invalid {name} {str(path)!r} of a Slurm job: expected an absolute path without a "
            "backslash"
        )
    return path


def _load(module: str) -> str:
    if _MODULE.fullmatch(module) is None or module.startswith("-"):
        raise JobScriptError(f"invalid module {module!r}: expected a name such as gcc/13.2")
    return f"module load {module} || exit 78"


def _exported(name: str, value: str) -> str:
    if _VARIABLE.fullmatch(name) is None:
        raise JobScriptError(f"invalid name of a variable {name!r}: use letters, digits and _")
    if _SECRET.search(name):
        raise JobScriptError(
            f"variable {name} seems to hold a secret, and Slurm stores the scripts of jobs; put it "
            "into a file of mode 0600 that the job can read, and give the job the file's path"
        )
    if "\0" in value:
        raise JobScriptError(f"invalid value of the variable {name}: it holds a NUL character")
    return shlex.quote(_encodable(value, f"the variable {name}"))


def _shell(line: str) -> str:
    if "\0" in line:
        raise JobScriptError(f"invalid line {line!r} of a script: it holds a NUL character")
    return _encodable(line, "a line of the script")


def _encodable(text: str, what: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise JobScriptError(f"{what} is not text in UTF-8: {text!r}") from None
    return text


def _duration(walltime: timedelta) -> str:
    minutes = -(-walltime // timedelta(minutes=1))
    hours, minutes = divmod(minutes, 60)
    return f"{hours // 24}-{hours % 24:02d}:{minutes:02d}:00"
