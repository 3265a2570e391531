"""Slurm jobs that hold QPUs for a run while its quantum stages need them."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from orchestrator.config.private import close_to_others
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.slurm_access import SlurmAccess
from orchestrator.identity import slurm_job_name
from orchestrator.slurm.client import Slurm
from orchestrator.slurm.environment import this_job
from orchestrator.slurm.errors import (
    LONGEST_REFUSAL_S,
    SlurmRefused,
    SlurmUnavailable,
    left_behind,
)
from orchestrator.slurm.explain import explain_reason, impossible
from orchestrator.slurm.owner import owner_of
from orchestrator.slurm.qpu_grants import lacks
from orchestrator.slurm.script import JobResources, JobScript
from orchestrator.slurm.states import SlurmJob, SlurmState

__all__ = ["QpuJobs", "access_resources", "never_granted"]

_PURPOSE = "qpu"
_ALIVE_EVERY_S = 20.0
# A job whose run has not touched its file for so long ends by itself.
_ABANDONED_S = 180
# The time of the file of a job that is to end at once.
_RELEASED_S = 0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 3.0
_LONGEST_REFUSED_PAUSE_S = 30.0


def access_resources(settings: QpuSettings) -> JobResources:
    """Return what a Slurm job asks for that holds a QPU.

    Args:
        settings: Of a QPU with a ``slurm`` table.
    """
    access = _access(settings)
    return JobResources(
        partition=access.partition,
        account=access.account,
        qos=access.qos,
        reservation=access.reservation,
        walltime=access.walltime,
        gres=access.gres,
        licenses=access.license,
        plugin_options=() if access.qfw is None else access.qfw.options(),
    )


def never_granted(settings: QpuSettings, reason: str, words: str = "") -> SlurmRefused:
    """Return the error for a QPU that Slurm never grants. reason: why; words: Slurm's own."""
    return SlurmRefused(
        f"Slurm can never grant QPU {settings.name!r}: {reason}. Correct "
        f"[qpu.{settings.name}.slurm]",
        words=words,
    )


@dataclass(eq=False)
class _Holding:
    """What a run has of one QPU. lock: for the whole time in which a job is sought or submitted."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0
    job: int | None = None
    alive: Path | None = None  # file of a job that this process submitted or took over
    use: IO[str] | None = (
        None  # the same file, open and locked as long as this process uses the job
    )
    is_coupled: bool = False  # the job is the coupling's, which ends it


class QpuJobs:
    """The Slurm jobs of a run that hold QPUs; calls may come from any thread.

    Concurrent stages share one job for each QPU, and so do workers that use it in functions of their
    own: the last process to leave it cancels it. Inside a job that already holds the QPU nothing
    is submitted. A job that outlives its run ends by itself after three minutes, where its node
    sees the run's folder, and at its walltime otherwise.

    Args:
        run: Id of the run.
        folder: For scripts' outputs, ``STATE_DIR/slurm/RUN``; its owner alone can enter it.
        slurm: The cluster.
        on_notice: Called with a sentence for the user while a job waits.
    """

    def __init__(
        self,
        run: str,
        folder: Path,
        slurm: Slurm | None = None,
        on_notice: Callable[[str], None] | None = None,
    ) -> None:
        self._run, self._folder = run, folder
        self._owner = owner_of(folder.parent.parent, run)
        self._slurm = slurm or Slurm()
        self._notice = on_notice or (lambda _text: None)
        self._holdings: dict[str, _Holding] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._beat: threading.Thread | None = None
        self._doubtful: set[str] = set()  # tags of submissions that had no answer
        self._left: set[int] = set()  # jobs that Slurm has not cancelled yet
        self._useless: set[int] = set()  # jobs that ceased to hold their QPU
        self._released: set[Path] = set()  # files of jobs that are to end

    @contextmanager
    def hold(self, settings: QpuSettings) -> Iterator[int | None]:
        """Hold a QPU until the end of the block; block until Slurm grants it.

        Args:
            settings: Of the QPU.

        Yields:
            Id of the Slurm job that holds it; None for a QPU that Slurm does not grant.

        Raises:
            SlurmRefused: Slurm never grants it; the message says why.
            SlurmUnavailable: Slurm does not answer.
        """
        if settings.slurm is None:
            yield None
            return
        holding = self._holding(settings.name)
        with holding.lock:
            if holding.job is None or (holding.alive is not None and not self._runs(holding.job)):
                self._acquire(holding, settings)
            holding.users += 1
            job = holding.job
        try:
            yield job
        finally:
            with holding.lock:
                holding.users -= 1
                if not holding.users and not holding.is_coupled:
                    self._release(holding)

    def current(self, settings: QpuSettings) -> int | None:
        """Return the Slurm job under which quantum jobs go to a QPU now; see `hold`.

        Outside quantum stages a job is submitted that holds the QPU until `close`.

        Args:
            settings: Of the QPU.

        Returns:
            The id; None for a QPU that Slurm does not grant. Raises as `hold` does.
        """
        if settings.slurm is None:
            return None
        holding = self._holding(settings.name)
        with holding.lock:
            ended = holding.alive is not None and not holding.users and not self._runs(holding.job)
            if holding.job is None or ended:
                self._acquire(holding, settings)
            return holding.job

    def replacement(self, settings: QpuSettings, ended: int) -> int | None:
        """Return the Slurm job that takes the place of one that no longer holds a QPU; see `hold`.

        The earlier one is cancelled: it may be running without its licence.

        Args:
            settings: Of the QPU.
            ended: Id of the job under which quantum work was stopped.

        Returns:
            The id; None if the job was the user's own, or the coupling's. Raises as `hold` does.
        """
        holding = self._holding(settings.name)
        with holding.lock:
            if holding.job == ended and holding.alive is None:
                return None
            self._useless.add(ended)
            if holding.job in (None, ended):
                self._acquire(holding, settings)
            return holding.job

    def discard(self, slurm_job: int) -> None:
        """Cancel a job that no longer holds its QPU; one that has ended is left."""
        self._left.add(slurm_job)
        with suppress(SlurmUnavailable, SlurmRefused):  # `close` tries again
            self._slurm.cancel({slurm_job}, patient=False)
            self._left.discard(slurm_job)

    def is_inside(self, settings: QpuSettings) -> bool:
        """Whether the job that this process is in holds a QPU. Raises ``SlurmUnavailable``."""
        here = this_job()
        return here is not None and self._has(here.id, _access(settings))

    def use(self, qpu: str, slurm_job: int) -> None:
        """Let quantum jobs go under a job of the coupling's own that holds the QPU.

        It is not asked whether that job still runs: call this again whenever it may be another one.

        Args:
            qpu: Name of the QPU.
            slurm_job: Id of a job that runs.
        """
        holding = self._holding(qpu)
        with holding.lock:
            self._release(holding)
            holding.job, holding.is_coupled = slurm_job, True

    def close(self, within_s: float = 15.0) -> None:
        """End the jobs that this run submitted; closing twice does nothing.

        within_s: how long Slurm may take; after that, the user is told which jobs are left.
        """
        self._closed.set()
        self._slurm.hurry(within_s)
        for holding in list(self._holdings.values()):
            with holding.lock:
                self._release(holding, cancels=False)  # all at once below
        fault: SlurmUnavailable | SlurmRefused | None = None
        for tag in tuple(self._doubtful):
            try:
                found = self._slurm.find(tag)
                if found is not None:
                    self._slurm.cancel({found.id})
                self._doubtful.discard(tag)
            except (SlurmUnavailable, SlurmRefused) as error:
                fault = error
        try:
            if self._left:
                self._slurm.cancel(self._left)
                self._left.clear()
        except (SlurmUnavailable, SlurmRefused) as error:
            fault = error
        if fault is not None:
            self._notice(left_behind(self._run, self._left, fault))

    def left_jobs(self) -> frozenset[int]:
        """Return the jobs of ours that are left, after `close` because Slurm does not answer."""
        own = (one.job for one in tuple(self._holdings.values()) if one.alive is not None)
        return frozenset(self._left).union(job for job in own if job is not None)

    def _holding(self, qpu: str) -> _Holding:
        with self._lock:
            return self._holdings.setdefault(qpu, _Holding())

    def _acquire(self, holding: _Holding, settings: QpuSettings) -> None:
        self._release(holding)
        here = this_job()
        if here is not None and self.is_inside(settings):
            holding.job = here.id
            return
        close_to_others(self._folder)
        mine = self._earlier(settings)
        if mine is None:
            number, job = self._next_number(), None
            use = _opened(self._alive(number))
        else:
            number, job, use = mine
        holding.alive, holding.use = self._alive(number), use
        try:
            if job is None:
                job = self._submit(settings, number)
                record = {"qpu": settings.name, "slurm_job": job}
                (self._folder / f"{_PURPOSE}-{number}.json").write_text(json.dumps(record))
            holding.job = job
            self._begin_beat()
            self._wait(job, settings)
        except BaseException:
            self._release(holding)
            raise

    def _alive(self, number: int) -> Path:
        return self._folder / f"{_PURPOSE}-{number}.alive"

    def _submit(self, settings: QpuSettings, number: int) -> int:
        resources = access_resources(settings)
        reasons = impossible(resources, self._slurm.partitions())
        if reasons:
            raise never_granted(settings, "; ".join(reasons))
        name = f"{_PURPOSE}-{number}"
        tag = str(self._owner.tag(_PURPOSE, number))
        script = JobScript(
            name=slurm_job_name(self._run, f"{_PURPOSE}-{settings.name}"),
            tag=tag,
            resources=resources,
            body=_body(self._alive(number)),
            directory=self._folder,
            output=self._folder / f"{name}.out",
        )
        pause_s, ends_s = _FIRST_PAUSE_S, time.monotonic() + LONGEST_REFUSAL_S
        while True:
            try:
                return self._slurm.submit(script)
            except SlurmRefused as error:
                if not error.passes:
                    raise never_granted(settings, str(error), error.words) from error
                self._await_room(settings, error, ends_s, pause_s)
            except SlurmUnavailable as error:
                if error.submitted:
                    self._doubtful.add(tag)
                raise
            pause_s = min(2 * pause_s, _LONGEST_REFUSED_PAUSE_S)

    def _await_room(
        self, settings: QpuSettings, refusal: SlurmRefused, ends_s: float, pause_s: float
    ) -> None:
        """Wait before a job is submitted again that Slurm refused for the number of jobs alone."""
        if time.monotonic() >= ends_s:
            raise SlurmRefused(
                f"Slurm has taken no job that holds QPU {settings.name!r} for "
                f"{LONGEST_REFUSAL_S / 60:.0f} min: {refusal}",
                words=refusal.words,
                passes=True,
            ) from refusal
        if pause_s == _FIRST_PAUSE_S:  # it is the first time
            self._notice(
                f"QPU {settings.name} waits, as Slurm takes no further job now; hpcqc tries again: "
                f"{refusal}"
            )
        if self._closed.wait(pause_s):
            raise SlurmUnavailable(
                f"the run ended before Slurm took a job that holds QPU {settings.name!r}"
            ) from refusal

    def _wait(self, job: int, settings: QpuSettings) -> None:
        """Block until the job runs, with the reason shown while it waits."""
        pause_s, shown = _FIRST_PAUSE_S, ""
        while not self._closed.is_set():
            found = self._slurm.jobs({job}).get(job)
            if found is None or found.state.is_over or found.state is SlurmState.COMPLETING:
                state = "is gone" if found is None else f"ended as {found.state.value}"
                raise SlurmUnavailable(
                    f"Slurm job {job}, which was to hold QPU {settings.name!r}, {state} before it "
                    "was used; see its output in the run's folder, and start the stage again"
                )
            if found.state is SlurmState.RUNNING:
                return
            reason = explain_reason(found.reason)
            if not reason.can_resolve:
                raise never_granted(settings, reason.text, found.reason)
            if found.reason != shown and found.state.is_waiting:
                shown = found.reason
                self._notice(f"QPU {settings.name} waits for Slurm job {job}: {reason.text}")
            self._closed.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        raise SlurmUnavailable(f"the run ended while Slurm job {job} waited for its QPU")

    def _release(self, holding: _Holding, *, cancels: bool = True) -> None:
        job, alive, use = holding.job, holding.alive, holding.use
        holding.job = holding.alive = holding.use = None
        if alive is None or use is None:
            return
        with use:
            if not _is_last(use) and job not in self._useless:
                return
            self._released.add(alive)
            # Enough for a job that sees the folder, even for one that starts later.
            with suppress(OSError):
                os.utime(alive, (_RELEASED_S, _RELEASED_S))
        if job is None:
            return
        if cancels:
            self.discard(job)
        else:
            self._left.add(job)

    def _runs(self, job: int | None) -> bool:
        """Whether a job runs, as far as Slurm says."""
        if job is None:
            return False
        try:
            found = self._slurm.jobs({job}).get(job)
        except SlurmUnavailable:
            return True
        return found is not None and found.state is SlurmState.RUNNING

    def _has(self, job: int, access: SlurmAccess) -> bool:
        """Whether the job of this process holds the QPU, in any of its components."""
        found = self._slurm.jobs({job}).values()
        own = [one for one in found if job in (one.id, one.leader)]
        return bool(own) and not lacks(own[0], access, *own[1:])

    def _earlier(self, settings: QpuSettings) -> tuple[int, int, IO[str]] | None:
        """Return a job that another process of the run left, or uses, for this QPU.

        Its number, its id, and its file, locked: from then on nobody else ends the job.
        """
        name = slurm_job_name(self._run, f"{_PURPOSE}-{settings.name}")
        held = {one.job for one in self._holdings.values()}
        for job in self._slurm.jobs().values():
            tag = job.tag
            if tag is None or not self._owner.has(tag):
                continue
            if tag.purpose != _PURPOSE or job.name != name:
                continue
            if job.id in held or job.id in self._useless or not _is_useful(job):
                continue
            if job.state is SlurmState.RUNNING and lacks(job, _access(settings)):
                self.discard(job.id)  # a requeued job may have lost its licence
                continue
            use = _opened(self._alive(tag.number))
            if os.fstat(use.fileno()).st_mtime == _RELEASED_S:
                use.close()  # it is about to end
                continue
            os.utime(self._alive(tag.number))  # its process may be gone, and it would end soon
            return tag.number, job.id, use
        return None

    def _next_number(self) -> int:
        """Return a number that no job of the run has, and keep it from other processes."""
        number = 0
        while True:
            path = self._folder / f"{_PURPOSE}-{number}.json"
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            except FileExistsError:
                number += 1
            else:
                return number

    def _begin_beat(self) -> None:
        with self._lock:
            if self._beat is None:
                self._beat = threading.Thread(
                    target=self._keep_alive, name="hpcqc-qpu-jobs", daemon=True
                )
                self._beat.start()

    def _keep_alive(self) -> None:
        while not self._closed.wait(_ALIVE_EVERY_S):
            now = time.time()
            for holding in list(self._holdings.values()):
                alive = holding.alive
                if alive is None:
                    continue
                with suppress(OSError):  # somebody removed the folder
                    os.utime(alive, (now, now))
                    if alive in self._released:  # meanwhile
                        os.utime(alive, (_RELEASED_S, _RELEASED_S))


def _opened(alive: Path) -> IO[str]:
    """Open the file of a job, and lock it so that no other process is the last one to use the job."""
    # Not `touch`: the time of a file whose job is about to end stays.
    use = os.fdopen(os.open(alive, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="ascii")
    with suppress(OSError):  # a file system without locks; see `_is_last`
        fcntl.flock(use, fcntl.LOCK_SH)
    return use


def _is_last(use: IO[str]) -> bool:
    """Whether no other process uses the job of a file; one that comes now waits until it is closed."""
    try:
        fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # nobody knows: a job that nobody ends would hold the QPU
    return True


def _is_useful(job: SlurmJob) -> bool:
    if job.was_refused or job.held:
        return False
    return job.state.is_waiting or job.state is SlurmState.RUNNING


def _access(settings: QpuSettings) -> SlurmAccess:
    if settings.slurm is None:
        raise ValueError(
            f"QPU {settings.name!r} has no table [qpu.{settings.name}.slurm]; Slurm does not grant it"
        )
    return settings.slurm


def _body(alive: Path) -> tuple[str, ...]:
    """Return shell that does nothing until the job is cancelled or its run is gone.

    The run changes the file's time as long as it lives. That time is compared with none of this
    node, whose clock may be another: only how long it stays the same counts.
    """
    file = shlex.quote(str(alive))
    return (
        "trap 'exit 0' TERM",
        "hpcqc_last= hpcqc_since=$SECONDS",
        "while :; do",
        "  sleep 2 & wait $!",
        f"  if hpcqc_now=$(stat -c %Y {file} 2>/dev/null); then",
        f'    [ "$hpcqc_now" = {_RELEASED_S} ] && exit 0',
        '    [ "$hpcqc_now" = "$hpcqc_last" ] || hpcqc_since=$SECONDS',
        "    hpcqc_last=$hpcqc_now",
        f"    [ $(( SECONDS - hpcqc_since )) -gt {_ABANDONED_S} ] && exit 0",
        f'  elif [ -n "$hpcqc_last" ] && [ ! -e {file} ]; then',
        "    exit 0",
        "  fi",
        "done",
    )
