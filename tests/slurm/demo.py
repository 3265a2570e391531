"""A run on a real Slurm that waits in a classical stage between two quantum stages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.broker.core import events as ev
from orchestrator.broker.core.views import JobState
from orchestrator.broker.ledger import Ledger
from tests.patience import PATIENCE_S, until
from tests.private_slurm import SlurmForTests

BEGINNING = """
import os
import time
from datetime import timedelta
from pathlib import Path
from prefect import flow
from qiskit import QuantumCircuit
from hpcqc import classical, quantum, run_program


def counts_of(qpu, seed):
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return qpu.sampler(seed=seed).run([circuit], shots=100).result()[0].data.meas.get_counts()


@quantum
def measure(qpu, seed):
    return counts_of(qpu, seed)


def begin(folder):
    with open(Path(folder) / "starts", "a") as file:
        file.write(os.environ.get("SLURM_JOB_ID", "0") + "\\n")


def wait_for_go(folder):
    while not (Path(folder) / "go").exists():
        time.sleep(0.05)

"""
# Waits in a classical stage between two quantum stages.
FLOW = f"""{BEGINNING}
@classical
def wait(counts, folder):
    begin(folder)
    wait_for_go(folder)
    return sum(counts.values())


@flow
def demo(folder: str):
    shots = wait(measure(1), folder)
    return shots + sum(measure(2).values())
"""
# Waits in a quantum stage between two quantum jobs.
QUANTUM_FLOW = f"""{BEGINNING}
@quantum
def twice(qpu, folder):
    first = counts_of(qpu, 1)
    begin(folder)
    wait_for_go(folder)
    return sum(first.values()) + sum(counts_of(qpu, 2).values())


@flow
def demo(folder: str):
    return twice(folder)
"""
# Runs an MPI program on two nodes between two quantum stages; the file "mode" says how.
MPI_FLOW = f"""{BEGINNING}
@classical(nodes=2, walltime=timedelta(seconds=WALLTIME_S))
def solve(counts, folder):
    begin(folder)
    mode = (Path(folder) / "mode").read_text()
    result = run_program([PROGRAM, mode])
    (Path(folder) / "leftover").write_text(str(result.leftover))
    return sum(counts.values())


@flow
def demo(folder: str):
    shots = solve(measure(1), folder)
    return shots + sum(measure(2).values())
"""
SITE = """
[compute.cluster]
kind = "slurm"
options = { partition = "PARTITION", walltime = "WALLTIME", nodes_max = 1, interface = "lo" }

[qpu.vlq]
BACKEND
"""
SIMULATED = 'backend = "aer"\nprofile = "vlq"\ntime_scale = 0'
GRANTED = '[qpu.vlq.slurm]\ncheck_s = 0.5\npartition = "quantum"\n'
GRES, LICENCE = 'gres = "qpu:1"\n', 'license = "qpu_lab:1"\n'


@dataclass
class Demo:
    """A run of the flow in a process of its own, in a folder."""

    slurm: SlurmForTests
    folder: Path
    id: str = "faulty"
    flow: str = FLOW
    quantum_stages: int = 2
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    def prepare(
        self,
        partition: str = "classical",
        walltime: str = "10 min",
        granted: bool | str = False,
        backend: str = SIMULATED,
    ) -> None:
        """Write flow and site. granted: by what Slurm grants the QPU, its GRES for True."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "demo.py").write_text(self.flow)
        site = SITE.replace("PARTITION", partition).replace("WALLTIME", walltime)
        site = site.replace("BACKEND", backend)
        if granted:
            site += GRANTED + (GRES if granted is True else granted)
        (self.folder / "site.toml").write_text(site)

    def begin(self) -> None:
        environment = {**self.slurm.environment, "HPCQC_STATE_DIR": str(self.state)}
        argv = [sys.executable, "-m", "orchestrator.cli", "run", "demo.py"]
        argv += ["-p", f"folder={json.dumps(str(self.folder))}"]
        # To a file: a pipe that nobody reads would stop the run.
        with (self.folder / "output").open("a") as output:
            self.process = subprocess.Popen(
                [*argv, "--site", "site.toml", "--run-id", self.id],
                cwd=self.folder,
                env=environment | self.environment,
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,
            )
        assert self.process is not None

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    @property
    def starts(self) -> list[int]:
        """The Slurm jobs in which the classical stage has begun, in their order."""
        try:
            return [int(line) for line in (self.folder / "starts").read_text().split()]
        except FileNotFoundError:
            return []

    def started(self, times: int = 1) -> int:
        """Wait until the classical stage has begun so often; return its Slurm job."""

        def enough() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.output
            return len(self.starts) >= times

        until(enough, lambda: (self.output, self.slurm.queue()))
        return self.starts[-1]

    def go(self) -> None:
        (self.folder / "go").touch()

    def fail(self) -> None:
        """Wait until the run has failed, and check that it left no job."""
        assert self.process is not None
        assert self.process.wait(PATIENCE_S) == 1, self.output
        self.check_queue()

    def end(self, starts: int = 2) -> None:
        """Let the run end, and check that it did all of its work, and quantum work once.

        starts: of quantum tasks in all; more than 2 if the fault stopped some of them.
        """
        self.go()
        assert self.process is not None
        assert self.process.wait(PATIENCE_S) == 0, self.output
        record = json.loads((self.folder / "hpcqc-runs" / self.id / "run.json").read_text())
        assert record["status"] == "completed", record
        stages = [stage for stage in record["stages"] if stage["kind"] == "quantum"]
        assert len(stages) == self.quantum_stages
        assert "result: 200" in self.output
        self.check_ledger(starts)
        self.check_queue()

    def check_ledger(self, starts: int = 2) -> None:
        ledger = Ledger.open(self.state / "ledger.sqlite")
        try:
            jobs = ledger.jobs(self.id)
            started = Counter(
                event.tag
                for event, _ in ledger.events(self.id)
                if isinstance(event, ev.TaskStarted)
            )
        finally:
            ledger.close()
        assert [job.state for job in jobs] == [JobState.COMPLETED] * 2
        assert list(started.values()) == [1] * starts
        ended = [task.state for job in jobs for task in job.tasks]
        assert ended.count("completed") == 2

    def abandon(self) -> None:
        """Kill what is left of a run whose test failed."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        left = [line.split()[0] for line in self.slurm.queue()]
        if left:
            self.slurm.run(["scancel", *left])
            self.check_queue()

    def check_queue(self) -> None:
        until(lambda: not self.slurm.queue(), self.slurm.queue)


def keepers(job: int) -> list[int]:
    """Return the process ids of the keepers of a job's steps."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if words.startswith(f"slurmstepd: [{job}.".encode()):
            found.append(int(entry.name))
    return found


def starts_of(state: Path, run: str | None = None) -> Counter[str]:
    """Count the starts that a backend accepted, by quantum job; of all runs of a state folder."""
    if not (state / "ledger.sqlite").exists():
        return Counter()
    with closing(Ledger.open(state / "ledger.sqlite")) as ledger:
        began = [
            event.tag.rpartition(".")[0]
            for scope in (ledger.runs() if run is None else [run])
            for event, _ in ledger.events(scope)
            if isinstance(event, ev.TaskStarted)
        ]
    return Counter(began)
