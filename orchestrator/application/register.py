"""The register of a state folder's runs: where each leaves its files, and which process works on it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.agent.processes import ProcessIdentity
from orchestrator.config.errors import ConfigError
from orchestrator.config.private import close_to_others, write_private
from orchestrator.identity import checked_run_id, lock_file_name

__all__ = [
    "DRIVER_OUTPUT",
    "RegisteredRun",
    "advice_after_haste",
    "cancel_requested",
    "driver_output",
    "find_registered",
    "is_being_submitted",
    "locked_entry",
    "log_files",
    "note_cancel",
    "note_last_job",
    "register",
    "registered_runs",
    "unknown_run",
    "why_last_job",
    "withdraw_cancel",
]


DRIVER_OUTPUT = "driver.out"
_LAST_JOB = "driver.last"


class RegisteredRun(BaseModel):
    """One run of a state folder. Its record, in its folder, has what it did."""

    model_config = ConfigDict(frozen=True)

    id: str
    target: str
    """the flow as it was named"""
    flow: str
    folder: Path
    site: Path | None
    """the site file; none for the built-in laptop"""
    settings: tuple[str, ...] = ()
    """changes to the site"""
    registered_at: datetime
    """of its latest attempt"""
    process: ProcessIdentity | None = None
    """that works on the latest attempt, or did; none before the first of a submitted run"""
    slurm_job: int | None = None
    """the Slurm job in which that process is, or in which it will be"""
    is_driver_job: bool = False
    """whether hpcqc submitted that job, for this run alone"""
    coupling: str = ""
    """how its stages share nodes and QPU in time; empty where nothing of it is Slurm's"""
    project: str = ""
    """that pays at the broker service"""


def register(state_dir: Path, run: RegisteredRun) -> None:
    """Enter a run, or its next attempt."""
    folder = _folder(state_dir)
    close_to_others(state_dir)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(folder / f"{run.id}.json", run.model_dump_json())


def registered_runs(state_dir: Path) -> list[RegisteredRun]:
    """Return all runs, the one first that was started last."""
    found = []
    for path in _folder(state_dir).glob("*.json"):
        run = _read(path)
        if run is not None:
            found.append(run)
    return sorted(found, key=lambda run: (run.registered_at, run.id), reverse=True)


def find_registered(state_dir: Path, start_of_id: str) -> RegisteredRun | None:
    """Return a run by its id or the start of it, None if there is none.

    Raises `ConfigError` if several runs begin so, and for an empty text, with which all do.
    """
    if not start_of_id:
        raise ConfigError("the run id is empty; `hpcqc runs` lists them")
    exact = _read(_folder(state_dir) / f"{start_of_id}.json") if _is_name(start_of_id) else None
    if exact is not None:
        return exact
    found = [run for run in registered_runs(state_dir) if run.id.startswith(start_of_id)]
    if len(found) > 1:
        listed = ", ".join(run.id for run in found)
        raise ConfigError(
            f"{len(found)} runs begin with {start_of_id!r}: {listed}; give one of them"
        )
    return found[0] if found else None


def unknown_run(state_dir: Path, start_of_id: str) -> ConfigError:
    """Return the error for a run that is not in the register."""
    return ConfigError(f"no run with id {start_of_id!r} in {state_dir}; `hpcqc runs` lists them")


def log_files(state_dir: Path, run: RegisteredRun) -> tuple[Path, ...]:
    """Return the logs of a run that there are: its process's, and what its driver job printed."""
    known = (run.folder / "run.log", driver_output(state_dir, run.id))
    return tuple(path for path in known if path.is_file())


def driver_output(state_dir: Path, run: str) -> Path:
    """Return the file with what the driver job of a run prints."""
    return state_dir / "slurm" / run / DRIVER_OUTPUT


@contextmanager
def locked_entry(state_dir: Path, run: str, *, wait: bool = True) -> Iterator[None]:
    """Keep other processes from submitting a run, and from ending what its driver job left.

    Raises `BlockingIOError` if another process does so now and ``wait`` is false.
    """
    close_to_others(state_dir)
    folder = _folder(state_dir)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / lock_file_name(run)
    path.touch(mode=0o600)
    with path.open("r+", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def is_being_submitted(state_dir: Path, run: str) -> bool:
    """Whether another process submits a run now, or ends what its driver job left."""
    if not (_folder(state_dir) / lock_file_name(run)).exists():
        return False
    try:
        with locked_entry(state_dir, run, wait=False):
            return False
    except BlockingIOError:
        return True


def note_cancel(state_dir: Path, run: str) -> None:
    """Note that a run is to end, so that its process is not started again."""
    folder = _folder(state_dir)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / f"{run}.cancel").touch(mode=0o600)


def withdraw_cancel(state_dir: Path, run: str) -> None:
    """Let a run that was cancelled be continued."""
    with suppress(FileNotFoundError):
        (_folder(state_dir) / f"{run}.cancel").unlink()


def cancel_requested(state_dir: Path, run: str) -> bool:
    """Whether `note_cancel` was called for the latest attempt of a run."""
    return (_folder(state_dir) / f"{run}.cancel").exists()


def note_last_job(state_dir: Path, run: str, reason: str | None) -> None:
    """Note why no driver job follows the latest one of a run; None takes it back."""
    path = state_dir / "slurm" / run / _LAST_JOB
    if reason is not None:
        write_private(path, reason)
    else:
        path.unlink(missing_ok=True)


def why_last_job(state_dir: Path, run: str) -> str | None:
    """Return why no driver job follows the latest one of a run, None if it was not decided."""
    try:
        return (state_dir / "slurm" / run / _LAST_JOB).read_text(encoding="utf-8")
    except OSError:
        return None


def _folder(state_dir: Path) -> Path:
    return state_dir / "register"


def _is_name(text: str) -> bool:
    try:
        checked_run_id(text)
    except ValueError:
        return False
    return True


def _read(path: Path) -> RegisteredRun | None:
    """Return what a file holds; None for one that is missing, or of a later version."""
    try:
        return RegisteredRun.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def advice_after_haste(run: str) -> str:
    """Return the end of the error of a run that ended too soon to end its jobs and workers.

    `hpcqc cancel` takes it off once it has ended them.
    """
    return f"; `hpcqc cancel {run}` ends what it may have left"
