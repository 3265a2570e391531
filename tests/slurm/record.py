"""Record what a real Slurm prints about a known set of jobs: python -m tests.slurm.record FOLDER.

It needs an idle cluster like the one of .ci/slurm.py, whose other jobs it leaves alone, and takes two
minutes. `Slurm` asks the questions, so that the record has the form that the parsers get.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from orchestrator.slurm.client import Slurm
from tests.patience import until

SEPARATOR, END = "\x1fSEP", "\x1eEND"
COMMENT = "hpcqc:v1:r%3A1:worker:0"
# By name: what sbatch is told besides, and the script.
JOBS: dict[str, tuple[list[str], str]] = {
    "done": ([], "exit 0"),
    "failed": ([], "exit 3"),
    "timeout": (["--time=1"], "sleep 600"),
    "cancelled": ([], "sleep 600"),
    "running": (["--licenses=qpu_lab:1", "--nodes=2"], "sleep 600"),
    'a b|"é\x1f': ([], "sleep 600"),
    "two\nlines": (["--hold"], "sleep 600"),
    "array": (["--array=1-3%1"], "sleep 600"),
    "gpu": (["--partition=gpu", "--gres=gpu:1"], "sleep 600"),
    "qpu": (["--partition=quantum", "--gres=qpu:1"], "sleep 600"),
    "second-qpu": (["--partition=quantum", "--gres=qpu:1"], "sleep 600"),
    "never": (["--dependency=afterok:1"], "true"),
    "later": (["--begin=now+1hour"], "true"),
    "requeued": (["--requeue"], "sleep 600"),
    "preempted": (["--partition=scavenge", "--requeue", "--nodes=4", "--exclusive"], "sleep 600"),
    "suspended": (["--nodelist=c4", "--exclusive"], "sleep 600"),
}


class _Recording(Slurm):
    """Keeps what each program printed, with the separators of the record."""

    def __init__(self) -> None:
        super().__init__()
        self.printed: list[str] = []

    def _run(self, argv, *further):
        answer = super()._run(argv, *further)
        text = answer.output
        for word in argv:
            name, _, value = word.partition("=")
            if name == "--delimiter":
                text = text.replace(value, SEPARATOR)
            elif name == "--Format":
                fields = [field.partition(":0")[2] for field in value.split(",")]
                if len(set(fields)) > 1:
                    text = text.replace(fields[-1], END)
                text = text.replace(fields[0], SEPARATOR)
        self.printed.append(text)
        return answer


def record(folder: Path) -> None:
    """Make the jobs, wait until each is as it should be, ask, and cancel them."""
    slurm = _Recording()
    ids: dict[str, int] = {}
    try:
        ids["preempted"] = _submit("preempted")
        until(lambda: slurm.jobs([ids["preempted"]])[ids["preempted"]].state == "RUNNING")
        for name in JOBS:
            if name not in ("preempted", "never"):
                ids[name] = _submit(name)
        ids["hetjob"] = _sbatch(
            ["--job-name=hetjob", "--nodes=1", ":", "--partition=quantum", "--gres=qpu:1"], "true"
        )
        until(lambda: slurm.jobs([ids["failed"]])[ids["failed"]].state == "FAILED")
        JOBS["never"] = ([f"--dependency=afterok:{ids['failed']}"], "true")
        ids["never"] = _submit("never")
        for name in ("requeued", "cancelled", "suspended"):
            until(lambda name=name: slurm.jobs([ids[name]])[ids[name]].state == "RUNNING")
        _say("scontrol", "requeue", str(ids["requeued"]))
        _say("scontrol", "suspend", str(ids["suspended"]))
        _say("scancel", str(ids["cancelled"]))
        start = (datetime.now(UTC) + timedelta(hours=1)).astimezone().strftime("%Y-%m-%dT%H:%M:%S")
        common = ["scontrol", "create", "reservation", f"StartTime={start}", "Duration=60"]
        _say(*common, "ReservationName=maintenance", "Nodes=c1", "Users=root", "Flags=MAINT")
        _say(
            *common,
            "ReservationName=licence",
            "Users=root",
            "Licenses=qpu_lab:1",
            "Flags=ANY_NODES",
        )
        until(lambda: slurm.jobs([ids["timeout"]])[ids["timeout"]].state == "TIMEOUT")
        until(lambda: slurm.jobs([ids["preempted"]])[ids["preempted"]].restarts)
        until(lambda: len(slurm.accounting(ids=[ids["preempted"]])) == 2)
        folder.mkdir(parents=True, exist_ok=True)
        asked: dict[str, Callable[[], object]] = {
            "squeue.txt": lambda: slurm.jobs(list(_all(slurm))),
            "sacct.txt": lambda: slurm.accounting(ids=list(_all(slurm))),
            "licenses.txt": slurm.licenses,
            "reservations.txt": slurm.reservations,
        }
        for file, question in asked.items():
            question()
            (folder / file).write_text(slurm.printed[-1], newline="")
        slurm.partitions()
        for file, text in zip(("sinfo.txt", "partitions.txt"), slurm.printed[-2:], strict=True):
            (folder / file).write_text(text, newline="")
        facts = {"version": ".".join(map(str, slurm.version())), "jobs": ids}
        (folder / "record.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    finally:
        _say("scancel", *map(str, ids.values()))
        for name in ("maintenance", "licence"):
            subprocess.run(["scontrol", "delete", f"ReservationName={name}"], check=False)


def _all(slurm: Slurm) -> dict[int, object]:
    return dict(slurm.jobs(user="root"))


def _submit(name: str) -> int:
    options, script = JOBS[name]
    return _sbatch([f"--job-name={name}", f"--comment={COMMENT}", *options], script)


def _sbatch(options: list[str], script: str) -> int:
    argv = ["sbatch", "--parsable", "--output=/dev/null", *options]
    ended = subprocess.run(
        argv, input=f"#!/bin/sh\n{script}\n", capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise SystemExit(f"{argv}: {ended.stderr}")
    return int(ended.stdout.split(";")[0])


def _say(*argv: str) -> str:
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    if ended.returncode:
        print(f"{argv}: {ended.stderr}", file=sys.stderr)
    return ended.stdout


if __name__ == "__main__":
    os.environ.setdefault("SLURM_TIME_FORMAT", "standard")
    record(Path(sys.argv[1]))
