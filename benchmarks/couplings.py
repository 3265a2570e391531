"""The published clustering experiment under every coupling, on a real Slurm, measured by its accounting.

``python -m benchmarks.couplings`` starts a private Slurm (`.ci/slurm`) with three nodes and a QPU for
each run, runs two copies of `benchmarks.published_experiment` on it under each coupling, several times,
and prints a table and draws a plot beside the published figures and the prediction. Makespan and
node-seconds come from ``sacct``, the QPU's use from the tasks in the runs' records. At a scale below 1
the stages are shorter, and what Slurm and we take for each job is not: the prediction at that scale has
the same start-up times.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Semaphore
from typing import TYPE_CHECKING

from benchmarks.coupling_sweep import PAGE, rewrite
from benchmarks.published_experiment import (
    COPIES,
    NODES,
    PUBLISHED,
    Figures,
    Phases,
    model,
)
from benchmarks.rows import Row
from benchmarks.setting import ROOT
from orchestrator.couplings.models import ClusterModel, QpuModel
from orchestrator.couplings.policies import COUPLINGS
from orchestrator.couplings.prediction import compare
from orchestrator.provenance.schema import RunRecord, read_record
from orchestrator.slurm import AccountedJob, Slurm

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Measured", "Setting", "main", "measure", "measured", "medians", "used_s"]

_BROKER_PATIENCE_S = 60.0
_BETWEEN_STARTS_S = 8.0
# Of the private Slurm on a small machine: a job's start, a worker's, and a job's end.
_START_S, _BOOT_S, _END_S, _QPU_START_S = 0.75, 1.5, 0.5, 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How often and how long. scale: of the stages' lengths to the published ones.

    at_once: how many runs go on beside each other.
    """

    scale: float = 0.25
    repetitions: int = 5
    at_once: int = 6
    couplings: tuple[str, ...] = tuple(COUPLINGS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of all copies. wall_s: by our clock, with the start of the drivers; for comparison."""

    coupling: str
    repetition: int
    makespan_s: float
    node_seconds: float
    qpu_busy: float
    jobs: int
    qpu_held_s: float
    wall_s: float


def used_s(records: Iterable[RunRecord]) -> float:
    """Return for how long tasks of runs were on the QPU, as the broker saw it: each task once."""
    tasks = {task.tag: task for record in records for job in record.jobs for task in job.tasks}
    return sum(
        (task.ended_at - task.started_at).total_seconds()
        for task in tasks.values()
        if task.started_at is not None and task.ended_at is not None
    )


def measured(
    jobs: Sequence[AccountedJob], qpu_nodes: frozenset[str], records: Iterable[RunRecord]
) -> tuple[Figures, float]:
    """Return the figures of runs from Slurm's accounting and their records, and QPU-seconds held.

    The makespan is from the first submission to the last end. Jobs in a partition of
    ``qpu_nodes`` hold the QPU's own node, which the experiment does not count.
    """
    begun = min(job.submitted_at for job in jobs if job.submitted_at is not None)
    ended = max(job.ended_at for job in jobs if job.ended_at is not None)
    makespan_s = (ended - begun).total_seconds()
    figures = Figures(
        makespan_s=makespan_s,
        node_seconds=sum(job.node_seconds for job in jobs if job.partition not in qpu_nodes),
        qpu_busy=used_s(records) / makespan_s,
    )
    return figures, sum(job.elapsed_s for job in jobs if job.tres.get("gres/qpu"))


def medians(runs: Sequence[Measured]) -> dict[str, Figures]:
    """Return the medians of each coupling."""
    return {
        coupling: Figures(
            makespan_s=statistics.median(run.makespan_s for run in ours),
            node_seconds=statistics.median(run.node_seconds for run in ours),
            qpu_busy=statistics.median(run.qpu_busy for run in ours),
        )
        for coupling in dict.fromkeys(run.coupling for run in runs)
        if (ours := [run for run in runs if run.coupling == coupling])
    }


_SITE = """\
[site]
name = "experiment"
coupling = "{coupling}"
default_compute = "cluster"
default_qpu = "lab"

[compute.cluster]
kind = "slurm"

[compute.cluster.options]
partition = "classical"
walltime = "20 min"
cores = 1
processes = 1
exclusive = true
nodes_min = 1
nodes_max = {nodes}
interface = "lo"

[qpu.lab]
backend = "fake"
options = {{ run_s = {run_s} }}

[qpu.lab.slurm]
partition = "quantum"
gres = "qpu:1"
walltime = "20 min"

[broker]
url = "unix:{socket}"
"""
_BROKER = """\
[site]
name = "experiment"
default_qpu = "lab"

[qpu.lab]
backend = "fake"
options = {{ run_s = {run_s} }}
"""


@contextmanager
def private_slurm(root: Path) -> Iterator[dict[str, str]]:
    """Start a Slurm with three classical nodes; yield what its programs need in the environment."""
    script = [sys.executable, str(ROOT / ".ci" / "slurm.py")]
    subprocess.run([*script, "start", "--root", str(root)], check=True, stdout=subprocess.DEVNULL)
    try:
        said = subprocess.run(
            [*script, "env", "--root", str(root)], check=True, capture_output=True, text=True
        ).stdout
        lines = (line.removeprefix("export ") for line in said.splitlines() if "=" in line)
        pairs = (line.split("=", 1) for line in lines)
        environment = {**os.environ, **{name: value.strip("'\"") for name, value in pairs}}
        drain = ["scontrol", "update", "NodeName=c4", "State=DRAIN", "Reason=experiment"]
        subprocess.run(drain, check=True, env=environment)
        yield environment
    finally:
        subprocess.run([*script, "stop", "--root", str(root)], check=False)


@contextmanager
def _broker(folder: Path, scale: float, environment: Mapping[str, str]) -> Iterator[Path]:
    """Serve the QPU to all copies; a task takes the scaled time."""
    site, socket = folder / "broker.toml", folder / "broker.sock"
    site.write_text(_BROKER.format(run_s=Phases().on_qpu_s * scale))
    command = [str(_hpcqc()), "broker", "serve", "--site", str(site), "--listen", f"unix:{socket}"]
    variables = {**environment, "HPCQC_STATE_DIR": str(folder / "broker")}
    with (folder / "broker.log").open("w") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + _BROKER_PATIENCE_S
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no broker: {(folder / 'broker.log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield socket
    finally:
        process.terminate()
        process.wait()


def _hpcqc() -> Path:
    return Path(sys.executable).with_name("hpcqc")


def run_copies(
    coupling: str,
    repetition: int,
    setting: Setting,
    folder: Path,
    socket: Path,
    environment: Mapping[str, str],
) -> Measured:
    """Run all copies at once under a coupling, and read Slurm's accounting of their jobs."""
    site = folder / f"{coupling}.toml"
    run_s = Phases().on_qpu_s * setting.scale
    site.write_text(_SITE.format(coupling=coupling, nodes=NODES, run_s=run_s, socket=socket))
    target = f"{ROOT / 'benchmarks' / 'published_experiment.py'}:loop"
    begun, clock = datetime.now(UTC), time.monotonic()
    copies = []
    for copy in range(COPIES):
        name = f"{coupling}-{repetition}-{copy}"
        out = folder / name
        command = [str(_hpcqc()), "run", target, "--site", str(site), "--run-id", name]
        command += ["-p", f"scale={setting.scale}", "--out", str(out)]
        variables = {**environment, "HPCQC_STATE_DIR": str(folder / f"state-{copy}")}
        log = (folder / f"{name}.log").open("w")
        copies.append((out, log, subprocess.Popen(command, env=variables, stdout=log, stderr=log)))
    for out, log, process in copies:
        code = process.wait()
        log.close()
        if code:
            raise RuntimeError(f"{out.name}: exit {code}: {Path(log.name).read_text()[-2000:]}")
    wall_s = time.monotonic() - clock
    jobs = _settled(Slurm(environment=environment), begun)
    records = [read_record(out) for out, _, _ in copies]
    figures, held_s = measured(jobs, frozenset({"quantum"}), records)
    return Measured(
        coupling=coupling,
        repetition=repetition,
        jobs=len(jobs),
        qpu_held_s=held_s,
        wall_s=wall_s,
        **asdict(figures),
    )


def _settled(slurm: Slurm, begun: datetime) -> list[AccountedJob]:
    """Return the jobs submitted since a time, once all have ended and the accounting knows it."""
    since = begun.replace(microsecond=0)
    for _ in range(120):
        waiting = [job for job in slurm.jobs().values() if not job.state.is_over]
        jobs = [
            job
            for job in slurm.accounting(since=since - timedelta(seconds=1))
            if job.submitted_at is not None and job.submitted_at >= since
        ]
        if not waiting and jobs and all(job.ended_at is not None for job in jobs):
            return [job for job in jobs if job.started_at is not None]
        time.sleep(0.5)
    raise RuntimeError("jobs of the runs did not end within a minute after them")


def run_all(setting: Setting, folder: Path) -> list[Measured]:
    """Run every coupling so many times, several beside each other; what ran is printed at once.

    Stages sleep, so that few cores carry many of them. Each run has a Slurm and a QPU of its own.
    """
    order = [
        (number, name) for number in range(1, setting.repetitions + 1) for name in setting.couplings
    ]
    turns = Semaphore()  # one start after the other: drivers that start are what needs the cores

    def one(repetition: int, coupling: str) -> Measured:
        here = folder / f"{coupling}-{repetition}"
        here.mkdir()
        with turns:
            time.sleep(_BETWEEN_STARTS_S)
        with (
            private_slurm(here / "slurm") as environment,
            _broker(here, setting.scale, environment) as socket,
        ):
            found = run_copies(coupling, repetition, setting, here, socket, environment)
        print(json.dumps(asdict(found)), file=sys.stderr, flush=True)
        return found

    with ThreadPoolExecutor(setting.at_once) as pool:
        runs = [pool.submit(one, *which) for which in order]
        return [run.result() for run in runs]


def predictions(scale: float) -> dict[str, Figures]:
    """Return what is predicted of all copies, with the start-up times of the private Slurm."""
    flows = [model(f"copy {number}", Phases().scaled(scale)) for number in range(COPIES)]
    cluster = ClusterModel(nodes=NODES, start_s=_START_S, boot_s=_BOOT_S, end_s=_END_S)
    found = compare(flows, cluster, QpuModel(start_s=_QPU_START_S))
    return {
        name: Figures(
            makespan_s=one.makespan_s, node_seconds=one.node_seconds, qpu_busy=one.qpu_busy
        )
        for name, one in found.items()
    }


def table(runs: Sequence[Measured], scale: float) -> str:
    """Return the medians of all runs beside prediction and publication, as Markdown."""
    ours, same, full = medians(runs), predictions(scale), predictions(1.0)
    columns = (
        "coupling",
        "runs",
        "makespan, s (spread)",
        "predicted",
        "node-seconds (spread)",
        "predicted",
        "QPU busy",
        "makespan to `exclusive`, node-seconds saved",
        "predicted at full scale",
        "published",
    )
    lines = [f"| {' | '.join(columns)} |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    for name, found in ours.items():
        here = [run for run in runs if run.coupling == name]
        lines.append(
            f"| {name} | {len(here)} "
            f"| {found.makespan_s:.0f} ({_spread([run.makespan_s for run in here])}) "
            f"| {same[name].makespan_s:.0f} ({_off(found.makespan_s, same[name].makespan_s)}) "
            f"| {found.node_seconds:.0f} ({_spread([run.node_seconds for run in here])}) "
            f"| {same[name].node_seconds:.0f} ({_off(found.node_seconds, same[name].node_seconds)}) "
            f"| {found.qpu_busy:.0%} | {_relative(found, ours)} | {_relative(full[name], full)} "
            f"| {_relative(PUBLISHED.get(name), PUBLISHED)} |"
        )
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{min(values):.0f}–{max(values):.0f}"


def _off(measured_: float, predicted_: float) -> str:
    return f"{predicted_ / measured_ - 1:+.0%}"


def _relative(one: Figures | None, among: Mapping[str, Figures]) -> str:
    """Return the makespan to the baseline's, and the part of its node-seconds that is saved."""
    base = among.get("exclusive")
    if one is None or base is None:
        return "–"
    saved = 1 - one.node_seconds / base.node_seconds
    return f"{one.makespan_s / base.makespan_s:.2f}, {saved:.1%}"


def plot(runs: Sequence[Measured], scale: float) -> str:
    """Draw measured, predicted and published figures beside each other, relative to exclusive."""
    import matplotlib
    from matplotlib.figure import Figure

    kinds = {
        f"measured at scale {scale:g}": medians(runs),
        f"predicted at scale {scale:g}": predictions(scale),
        "predicted at full scale": predictions(1.0),
        "published": PUBLISHED,
    }
    names = list(medians(runs))
    with matplotlib.rc_context(
        {"svg.hashsalt": "couplings", "svg.fonttype": "none", "font.size": 8}
    ):
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        figure.patch.set_facecolor("white")
        axes = figure.subplots(1, 3)
        for offset, (label, figures) in enumerate(kinds.items()):
            _bars(axes, names, figures, 0.2 * offset - 0.3, label)
        for one, title in zip(axes, _PANELS, strict=True):
            one.set_title(title, fontsize=8)
            one.set_xticks(range(len(names)), names, rotation=30)
            one.grid(axis="y", linewidth=0.5)
            one.set_axisbelow(True)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


_PANELS = ("makespan to exclusive", "node-seconds to exclusive", "QPU busy")


def _bars(
    axes: Sequence[Axes], names: Sequence[str], found: Mapping[str, Figures], at: float, label: str
) -> None:
    base = found.get("exclusive")
    for index, name in enumerate(names):
        one = found.get(name)
        if one is None or base is None:
            continue
        values = (
            one.makespan_s / base.makespan_s,
            one.node_seconds / base.node_seconds,
            one.qpu_busy,
        )
        for axis, value in zip(axes, values, strict=True):
            color = f"C{round((at + 0.3) / 0.2)}"
            axis.bar(index + at, value, 0.2, color=color, label=label if index == 0 else None)


def measure() -> list[Row]:
    """Run everything and return the rows; a machine without Slurm states that, and nothing else."""
    name = "two copies of the published experiment"
    if shutil.which("slurmctld") is None:
        what = "makespan and node-seconds per coupling; needs a Slurm installation"
        return [
            Row(
                name=name,
                ours="not measured",
                against="–",
                what=what,
                ratio=None,
                goal="–",
                met=None,
            )
        ]
    setting = Setting()
    with tempfile.TemporaryDirectory(prefix="hpcqc-couplings-") as folder:
        runs = run_all(setting, Path(folder))
    return _rows(runs, setting)


# Makespan to the baseline's, and the part of its node-seconds that is saved.
_GOALS = {"split": (0.62, 0.60), "malleable": (0.57, 0.52)}
_PREDICTION_GOAL = 0.10


def _rows(runs: Sequence[Measured], setting: Setting) -> list[Row]:
    ours, same, rows = medians(runs), predictions(setting.scale), []
    base = ours["exclusive"]
    about = f"{setting.repetitions} repetitions at scale {setting.scale:g}, from sacct"
    for name, found in ours.items():
        makespan, saved = (
            found.makespan_s / base.makespan_s,
            1 - found.node_seconds / base.node_seconds,
        )
        goal = _GOALS.get(name)
        rows.append(
            Row(
                name=f"coupling {name}",
                ours=f"{found.makespan_s:.0f} s, {found.node_seconds:.0f} node-s",
                against=f"{base.makespan_s:.0f} s, {base.node_seconds:.0f} node-s",
                what=f"exclusive; {saved:.1%} of node-seconds saved; {about}",
                ratio=makespan,
                goal="–" if goal is None else f"≤ {goal[0]}, ≥ {goal[1]:.0%} saved",
                met=None if goal is None else makespan <= goal[0] and saved >= goal[1],
            )
        )
        off = max(
            abs(same[name].makespan_s / found.makespan_s - 1),
            abs(same[name].node_seconds / found.node_seconds - 1),
        )
        rows.append(
            Row(
                name=f"prediction of {name}",
                ours=f"{same[name].makespan_s:.0f} s, {same[name].node_seconds:.0f} node-s",
                against=f"{found.makespan_s:.0f} s, {found.node_seconds:.0f} node-s",
                what="measured; the ratio is the larger deviation",
                ratio=off,
                goal=f"≤ {_PREDICTION_GOAL}",
                met=off <= _PREDICTION_GOAL,
            )
        )
    return rows


def main() -> None:
    """Run, print the table, and leave table and plot where told."""
    parser = argparse.ArgumentParser(description=__doc__)
    usual = Setting()
    parser.add_argument("--scale", type=float, default=usual.scale)
    parser.add_argument("--repetitions", type=int, default=usual.repetitions)
    parser.add_argument("--at-once", type=int, default=usual.at_once)
    parser.add_argument("--couplings", nargs="+", default=usual.couplings, choices=[*COUPLINGS])
    parser.add_argument("--folder", type=Path, help="keep logs and runs here")
    parser.add_argument("--recorded", type=Path, help="take these runs (JSON lines) instead")
    parser.add_argument("--page", action="store_true", help="write table and plot into docs")
    given = parser.parse_args()
    if given.recorded is not None:
        runs = [Measured(**json.loads(line)) for line in given.recorded.read_text().splitlines()]
        runs.sort(key=lambda run: (run.repetition, list(COUPLINGS).index(run.coupling)))
    else:
        setting = Setting(
            scale=given.scale,
            repetitions=given.repetitions,
            couplings=tuple(given.couplings),
            at_once=given.at_once,
        )
        folder = given.folder or Path(tempfile.mkdtemp(prefix="hpcqc-couplings-"))
        folder.mkdir(exist_ok=True)
        runs = run_all(setting, folder)
    text = table(runs, given.scale)
    print(text)
    if given.page:
        rewrite(PAGE, "measured", text)
        (ROOT / "docs" / "images" / "couplings-published.svg").write_text(plot(runs, given.scale))


if __name__ == "__main__":
    main()
