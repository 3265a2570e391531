"""``run_program``: a program of a stage, started where its stage runs, and cleaned up after."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from orchestrator.compute.api import Demand
from orchestrator.compute.remote_call import execution, stage_context
from orchestrator.config.environment import process_environment
from orchestrator.config.private import close_to_others
from orchestrator.config.qrmi import program_environment
from orchestrator.identity import program_output
from orchestrator.resources import resources
from orchestrator.slurm import Slurm, SlurmRefused, SlurmUnavailable, ThisJob, this_job
from orchestrator.slurm.steps import ProgramStep, step_environment
from orchestrator.text_files import tail_of
from orchestrator.wording import counted

__all__ = ["ProgramFailed", "ProgramResult", "run_program"]

_GUARD = Path(__file__).with_name("guard.py")
_STOP_S = 15.0
_TAIL_BYTES = 800
_LOOK_S = 1.0
_AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramResult:
    """How a program ended, and what it used.

    Attributes:
        exit_code: As the program returned it; minus the number of the signal that ended it. Of
            several processes, that of the first one that ended badly.
        seconds: From its start to its end, on the wall clock.
        output: File with its standard output and error.
        cpu_s: CPU time of its processes; of one that was stopped, as far as it is known.
        max_rss_bytes: Most memory of one of its processes.
        nodes: Names of the machines that it ran on.
        leftover: Number of processes that it left behind, which were ended.
    """

    exit_code: int
    seconds: float
    output: Path
    cpu_s: float
    max_rss_bytes: int
    nodes: tuple[str, ...]
    leftover: int = 0


class ProgramFailed(RuntimeError):
    """A program did not end well.

    Attributes:
        result: What is known of it.
    """

    def __init__(self, message: str, result: ProgramResult) -> None:
        super().__init__(message)
        self.result = result

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.result)


@dataclass(frozen=True, slots=True)
class _Launch:
    """What is executed for a program. starter: what starts its processes, such as ``srun``, if any.

    each: whether every process has a guard of its own.
    """

    program: tuple[str, ...]
    environment: Mapping[str, str]
    nodes: tuple[str, ...]
    starter: tuple[str, ...] = ()
    each: bool = False


def run_program(
    argv: Sequence[str | os.PathLike[str]],
    *,
    tasks: int | None = None,
    tasks_per_node: int | None = None,
    cores: int = 1,
    gpus: int = 0,
    environment: Mapping[str, str] | None = None,
    directory: Path | str | None = None,
    qpus: Collection[str] | None = None,
    check: bool = True,
) -> ProgramResult:
    """Run a program, such as an MPI one, and wait for its end.

    Call it in a classical stage. In an allocation of Slurm ``srun`` starts it there, with PMIx if
    the site has no default; elsewhere ``mpirun`` where ``tasks`` is more than 1, else nobody. Its
    output goes to a file of the run while it is written. It ends with its stage, at the latest
    after the stage's ``walltime``, and so do all processes that it left.

    Args:
        argv: The program and its arguments; no shell reads them.
        tasks: Number of processes; None for ``tasks_per_node`` on each node that the stage may use.
        tasks_per_node: Processes on each node; None for what the stage declares, or, with
            ``tasks``, for as many as that needs.
        cores: CPUs of each process; also ``OMP_NUM_THREADS``, unless ``environment`` has it.
        gpus: GPUs on each node.
        environment: Variables to add to those of the stage.
        directory: Where it runs; None for the stage's own working directory.
        qpus: Names of QPUs that Slurm gave to the stage's job through QRMI, whose variables the
            program gets; None for all of them, an empty list for none. What it does there is not in
            the ledger.
        check: Whether another exit code than 0 is an error.

    Returns:
        The exit code, the output's file and what the program used.

    Raises:
        ProgramFailed: The program ended badly and ``check`` is set, or took longer than the
            walltime of its stage.
        FileNotFoundError: There is no such program or directory, or ``mpirun`` is missing.
        ValueError: An argument is invalid, or names a QPU that the job was not given.
    """
    arguments = _arguments(argv, tasks, tasks_per_node, cores, gpus)
    added = {"OMP_NUM_THREADS": str(cores), **(environment or {})}
    folder = None if directory is None else Path(directory).absolute()
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"there is no directory {str(folder)!r} to run {arguments[0]!r} in")
    context = stage_context()
    if tasks is None and tasks_per_node is None and context is not None:
        tasks_per_node = context.demand.tasks_per_node
    job = this_job()
    nodes = () if job is None else _nodes(job, None if context is None else context.demand)
    launch = (
        _as_step(arguments, nodes, tasks, tasks_per_node, cores, gpus)
        if nodes
        else _on_this_machine(arguments, tasks, tasks_per_node)
    )
    if isinstance(qpus, str):
        raise ValueError(f"qpus is {qpus!r}; give a list of names: [{qpus!r}]")
    launch = replace(launch, environment=program_environment(launch.environment, qpus))
    output = _output_file()
    started_s = time.monotonic()
    deadline_s = _deadline_s(started_s)
    measured, in_time = _run(launch, added, folder, output, deadline_s)
    outer, *inner = measured
    found = inner if launch.each else [outer]
    first = _first_fault(inner) if outer.get("exit") else None
    result = ProgramResult(
        exit_code=int((first or outer).get("exit", -9)),
        seconds=time.monotonic() - started_s,
        output=output,
        cpu_s=sum(float(one.get("cpu_s", 0.0)) for one in found),
        max_rss_bytes=max((int(one.get("max_rss_bytes", 0)) for one in found), default=0),
        nodes=launch.nodes,
        leftover=sum(int(one.get("left", 0)) for one in found),
    )
    here = execution()
    if here is not None and result.leftover:
        here.leftovers.append(result.leftover)
    _raise_fault(arguments, result, outer, first, in_time=in_time, check=check)
    return result


def _arguments(
    argv: Sequence[str | os.PathLike[str]],
    tasks: int | None,
    tasks_per_node: int | None,
    cores: int,
    gpus: int,
) -> tuple[str, ...]:
    if isinstance(argv, str | bytes) or not argv:
        raise ValueError(
            f"argv is {argv!r}; give a list, the program first: ['./solver', '-n', '4']"
        )
    amounts = {"tasks": (tasks, 1), "tasks_per_node": (tasks_per_node, 1)}
    amounts |= {"cores": (cores, 1), "gpus": (gpus, 0)}
    for name, (amount, least) in amounts.items():
        if amount is not None and amount < least:
            raise ValueError(f"{name}={amount}; a program needs at least {least}")
    given = tuple(os.fspath(part) for part in argv)
    found = shutil.which(given[0])
    if found is None:
        raise FileNotFoundError(
            f"there is no program {given[0]!r} that can be executed; give its path, or load its module"
        )
    return (os.path.abspath(found), *given[1:])  # noqa: PTH100 - a link's name may matter


def _nodes(job: ThisJob, demand: Demand | None) -> tuple[str, ...]:
    """Return the nodes that a program may use, this one first if it is known.

    demand: of the stage, None outside stages. Other stages may have the job's other nodes.
    """
    if demand is None:
        return job.nodes
    known = job.step_nodes or job.nodes
    here = [node for node in known if node == job.node_name]
    return (*here, *(node for node in known if node not in here))[: demand.nodes_max]


def _as_step(
    arguments: tuple[str, ...],
    available: tuple[str, ...],
    tasks: int | None,
    tasks_per_node: int | None,
    cores: int,
    gpus: int,
) -> _Launch:
    number = tasks or len(available) * (tasks_per_node or 1)
    known = step_environment(process_environment())
    if number == 1 and len(available) == 1:  # it is here already
        return _Launch(arguments, known, available)
    needed = -(-number // tasks_per_node) if tasks_per_node else number
    nodes = available[:needed]
    step = ProgramStep(
        nodes=nodes,
        tasks=number,
        tasks_per_node=tasks_per_node,
        cores=cores,
        gpus=gpus,
        mpi=_mpi(),
    )
    return _Launch(arguments, known, nodes, starter=step.command(), each=True)


def _on_this_machine(
    arguments: tuple[str, ...], tasks: int | None, tasks_per_node: int | None
) -> _Launch:
    here = (os.uname().nodename,)
    number = tasks or tasks_per_node or 1
    known = dict(process_environment())
    if number == 1:
        return _Launch(arguments, known, here)
    if os.geteuid() == 0:  # as in a container, where Open MPI refuses otherwise
        known = _AS_ROOT | known
    mpirun = shutil.which("mpirun")
    if mpirun is None:
        raise FileNotFoundError(
            f"{number} processes of {arguments[0]!r} need mpirun, which is not on the PATH; install "
            "an MPI such as Open MPI, load its module, or run with tasks=1"
        )
    # A laptop may have fewer cores than the program has processes.
    more = ("--oversubscribe",) if _is_open_mpi(mpirun) else ()
    starter = (mpirun, *more, "-n", str(number))
    return _Launch(arguments, known, here, starter=starter)


def _output_file() -> Path:
    """Return a new file for the output of a program, its owner's alone."""
    opened = resources()
    context = stage_context()
    key = "flow" if context is None else context.key
    folder = opened.run.site.state_dir / "programs" / opened.run.id
    close_to_others(folder)
    number = 0
    while True:
        path = folder / program_output(key, number)
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            number += 1
        else:
            return path


def _deadline_s(now_s: float) -> float | None:
    """Return the monotonic time at which the walltime of the stage is over; None for none."""
    here = execution()
    if here is None or here.context.demand.walltime is None:
        return None
    return min(now_s, here.started_s) + here.context.demand.walltime.total_seconds()


def _run(
    launch: _Launch,
    added: Mapping[str, str],
    directory: Path | None,
    output: Path,
    deadline_s: float | None,
) -> tuple[list[dict[str, Any]], bool]:
    """Run it; return what its guards measured, the outermost first, and whether it ended in time."""
    reports = output.with_suffix(".reports")
    reports.mkdir(mode=0o700)
    inner = _guard(str(reports)) if launch.each else ()
    command = [*launch.starter, *inner, *launch.program]
    reading, writing = os.pipe()
    try:
        with output.open("ab") as file:
            guard = subprocess.Popen(
                [*_guard(str(writing)), *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**launch.environment, **added},
                cwd=directory,
                pass_fds=[writing],
                start_new_session=True,  # Ctrl-C reaches the flow, which ends its stages in order
            )
    finally:
        os.close(writing)
    try:
        in_time = _wait(guard, deadline_s)
    finally:
        if guard.poll() is None:
            _stop(guard)
        with os.fdopen(reading, "rb") as report:
            texts = [report.read(), *(file.read_bytes() for file in sorted(reports.glob("*.json")))]
        shutil.rmtree(reports, ignore_errors=True)
    return [json.loads(text) if text else {} for text in texts], in_time


def _guard(report: str) -> tuple[str, ...]:
    """Return what comes before a program to leave none of its processes behind."""
    return sys.executable, "-I", "-S", str(_GUARD), report


def _wait(guard: subprocess.Popen[bytes], deadline_s: float | None) -> bool:
    """Wait for the end; False if the deadline came first."""
    while True:
        left_s = _LOOK_S if deadline_s is None else min(_LOOK_S, deadline_s - time.monotonic())
        if left_s <= 0:
            return False
        try:
            guard.wait(left_s)
        except subprocess.TimeoutExpired:
            continue
        return True


def _stop(guard: subprocess.Popen[bytes]) -> None:
    guard.terminate()
    try:
        guard.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        guard.kill()
        guard.wait()


def _raise_fault(
    arguments: tuple[str, ...],
    result: ProgramResult,
    measured: Mapping[str, Any],
    first: Mapping[str, Any] | None,
    *,
    in_time: bool,
    check: bool,
) -> None:
    what = shlex.join(arguments)
    end = _left_text(result.leftover) + _tail(result.output)
    if not in_time:
        raise ProgramFailed(
            f"{what} did not end within the walltime of its stage, and was stopped after "
            f"{result.seconds:.1f} s{end}",
            result,
        )
    if "error" in measured:
        raise ProgramFailed(f"{what} cannot be started: {measured['error']}", result)
    if check and result.exit_code:
        raise ProgramFailed(f"{what} {_ending(result.exit_code)}{_place(first)}{end}", result)


def _first_fault(measured: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return what was measured of the process that ended badly first, and not because of others."""
    faults = [one for one in measured if one.get("exit") and not one.get("stopped")]
    return min(faults, key=lambda one: float(one.get("ended_s", 0.0)), default=None)


def _ending(code: int) -> str:
    """Return how a program ended; of another one's signal, shells and ``mpirun`` return 128 more."""
    if code < 0:
        return f"was ended by signal {-code}{_signal_name(-code)}"
    name = _signal_name(code - 128) if code > 128 else ""
    return f"ended with exit code {code}" + (
        f", as after signal {code - 128}{name}" if name else ""
    )


def _signal_name(number: int) -> str:
    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:
        return ""


def _place(first: Mapping[str, Any] | None) -> str:
    if first is None or first.get("task") is None:
        return ""
    node = first.get("node")
    return f" in task {first['task']}" + (f" on {node}" if node else "")


def _left_text(leftover: int) -> str:
    if not leftover:
        return ""
    return f"; {counted(leftover, 'process', 'processes')} that it left behind had to be ended"


def _tail(output: Path) -> str:
    text = tail_of(output, _TAIL_BYTES)
    return f"; the end of its output, {output}:\n{text}" if text else f"; its output is {output}"


@lru_cache(maxsize=1)
def _mpi() -> str | None:
    """Return what `srun --mpi` should be told; None for the site's default."""
    if process_environment().get("SLURM_MPI_TYPE"):
        return None
    try:
        default, known = Slurm(patience_s=5.0).mpi_plugins()
    except (SlurmUnavailable, SlurmRefused):
        return None
    if default not in ("", "none"):
        return None
    return next((name for name in ("pmix", "pmi2") if name in known), None)


@lru_cache(maxsize=4)
def _is_open_mpi(mpirun: str) -> bool:
    shown = subprocess.run(
        [mpirun, "--version"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    return "Open MPI" in shown.stdout or "OpenRTE" in shown.stdout
