"""What hpcqc asks of Slurm, and has it do, by its command-line programs."""

from __future__ import annotations

import contextlib
import grp
import os
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from orchestrator.config.environment import process_environment
from orchestrator.slurm.errors import SlurmRefused, SlurmUnavailable
from orchestrator.slurm.explain import explain_refusal
from orchestrator.slurm.inventory import (
    NODE_FIELDS,
    Licence,
    Partition,
    RemoteLicence,
    Reservation,
    parse_licences,
    parse_partitions,
    parse_remote_licences,
    parse_reservations,
    parse_settings,
)
from orchestrator.slurm.outlook import ENTRY_FIELDS, QueueEntry, parse_entries
from orchestrator.slurm.programs import AWAY, READABLE_TIMES, SlurmPrograms, said
from orchestrator.slurm.script import JobScript
from orchestrator.slurm.states import (
    ACCOUNTING_FIELDS,
    QUEUE_FIELDS,
    AccountedJob,
    JobDetails,
    SlurmJob,
    parse_accounting,
    parse_details,
    parse_queue,
    time_of,
)
from orchestrator.slurm.versions import REMOTE_LICENCES_SINCE

__all__ = ["Slurm", "job_environment"]

_Record = TypeVar("_Record")
# More than any id; squeue refuses a whole list with one that does not fit into its own numbers.
_NO_ID = 1 << 31
# Ids in one command: an argument has at most 128 KiB.
_MOST_IDS = 2000
# Reasons for refusing a job that no later moment changes.
_FOR_GOOD = re.compile(
    r"invalid (partition|account|qos|license|generic resource|feature)|qos specification|"
    r"not permitted|requested reservation is invalid|"
    # Words of sbatch itself about an option, before it asks anybody.
    r"unrecognized option|ambiguous|requires an argument|doesn't allow an argument|"
    r"invalid --?[a-z-]+ |invalid \S+ specification",
    re.IGNORECASE,
)
# After these the controller may have stored the job all the same.
_DOUBTFUL = re.compile(
    r"timed out|zero bytes|unexpected message|broken pipe|connection reset|transport endpoint|"
    r"receive failure|insane message",
    re.IGNORECASE,
)
_STARTS = re.compile(r"Job [0-9]+ to start at (\S+) using", re.IGNORECASE)
# As in QOSMaxSubmitJobPerUserLimit; other jobs count, too.
_TOO_MANY = re.compile(r"(Max|Grp)SubmitJob")
_UNKNOWN_JOB = re.compile(r"invalid job id", re.IGNORECASE)
_CHANGED_MEANWHILE = re.compile(
    r"invalid job id|already completing|already completed|already finished|no longer pending|is finished|"
    # The last one: what scontrol adds, in a line of its own, if others of the jobs were changed.
    r"already held|not (been )?held|error: no error",
    re.IGNORECASE,
)
_CHANGED_OR_PART = re.compile(
    f"{_CHANGED_MEANWHILE.pattern}|individual component of het", re.IGNORECASE
)
# What a job gets of the environment of the process that submits it.
_HANDED_ON = re.compile(
    r"(HOME|USER|LOGNAME|SHELL|PATH|LANG|LANGUAGE|LC_[A-Z]+|TZ|BASH_ENV|ENV|PYTHONPATH|PYTHONHOME|"
    r"PYTHONUTF8|VIRTUAL_ENV|LD_LIBRARY_PATH|LD_PRELOAD|KRB5CCNAME|SLURM_CONF|"
    r"(MODULE|LMOD|_LM|_ModuleTable|__MODULES|BASH_FUNC_|CONDA_|EB|OMP_|OPENBLAS_|MKL_|BLIS_|"
    r"OMPI_|PMIX_|UCX_|FI_|I_MPI_|MPICH_|CUDA_HOME|CUDA_PATH|ROCM_).*)"
)
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|API_?KEY|PRIVATE_?KEY|CREDENTIAL", re.IGNORECASE)


def job_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what a job gets of the environment of the process that submits it.

    Slurm stores the environment of a batch job. So a job gets what programs need to be found and
    to run (PATH, modules, locale, numbers of threads), and nothing else: no tokens, no agents of
    this session, no ``SBATCH_…`` that would override the script.

    Args:
        environ: The environment; None for this process's own.
    """
    known = process_environment(environ)
    return {
        name: value
        for name, value in known.items()
        if _HANDED_ON.fullmatch(name) and not _SECRET.search(name)
    }


class Slurm(SlurmPrograms):
    """Slurm as its command-line programs offer it, safe to share between threads.

    Each method runs one program, or as many as it says; see `SlurmPrograms` for those that fail.

    Args:
        timeout_s, patience_s, environment, sleep, clock: Of `SlurmPrograms`.
        settle_s: How long a job may take to appear after its submission failed without an answer.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 60.0,
        patience_s: float = 60.0,
        settle_s: float = 5.0,
        environment: Mapping[str, str] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            timeout_s=timeout_s,
            patience_s=patience_s,
            environment=environment,
            sleep=sleep,
            clock=clock,
        )
        self.settle_s = settle_s
        self._version: tuple[int, int, int] | None = None

    def submit(self, script: JobScript) -> int:
        """Submit a job exactly once, even if ``sbatch`` hangs, is killed or loses its connection.

        After a failure without an answer the job is searched by its tag before it is submitted
        again. A process that is killed inside this method finds the job by `find`.

        Args:
            script: What to submit; no other job of this user has its tag.

        Returns:
            The id; of a heterogeneous job, its leader's.

        Raises:
            SlurmRefused: Slurm does not accept the job; the message says why and what to do.
            SlurmUnavailable: No answer in time. If its ``submitted`` is set, the job may exist.
            JobScriptError: A value cannot be written into a script.
        """
        text = script.text()
        started = self._clock()
        doubtful = False
        for pause in self._pauses():
            try:
                job = self._sbatch(text, script)
            except SlurmUnavailable as error:
                doubtful = doubtful or error.submitted
                is_last = not error.retryable or self._is_over(started)
                if is_last and not doubtful:
                    raise
                if not is_last:
                    self._pause(pause)
                found = self._stored(script.tag, error) if doubtful else None
                if found is not None:
                    return found
                if is_last:
                    raise _in_doubt(script.tag, error) from error
                continue
            return self._first_of(script.tag, job) if doubtful else job
        raise AssertionError("there is always a next pause")

    def check(self, script: JobScript) -> None:
        """Ask whether Slurm accepts a job, and submit nothing.

        A job that only cannot start now, such as one whose partition is down, passes.

        Args:
            script: As for `submit`.

        Raises:
            SlurmRefused: Slurm does not accept such a job; the message says why and what to do.
            SlurmUnavailable: No answer.
            JobScriptError: A value cannot be written into a script.
        """
        text, environment = script.text(), job_environment(self._environment)
        answer = self._run(["sbatch", "--test-only"], environment, text)
        if answer.code and _FOR_GOOD.search(answer.errors):
            raise self._refused(answer.errors, script)
        if answer.code < 0 or AWAY.search(answer.errors):
            raise SlurmUnavailable(f"sbatch failed: {said(answer.errors, answer.code)}")

    def jobs(
        self, ids: Collection[int] | None = None, *, user: str | None = None
    ) -> dict[int, SlurmJob]:
        """Return jobs by id, with one ``squeue`` for all of them.

        Args:
            ids: Which jobs, of any user; None for all of ``user``. Of a heterogeneous job, all
                components.
            user: Whose jobs; None for this process's user.

        Returns:
            The jobs that Slurm still knows, finished ones for some minutes; others are absent.
        """
        wanted = None if ids is None else {id_ for id_ in ids if 0 < id_ < _NO_ID}
        if wanted is not None and not wanted:
            return {}
        separator, end = _separators()
        fields = ",".join(f"{name}:0{separator}" for name in QUEUE_FIELDS[:-1])
        chosen = ["--me"] if user is None else [f"--user={user}"]
        if wanted is not None:
            listed = ",".join(map(str, sorted(wanted)))
            chosen = [f"--jobs={listed}"] if len(wanted) <= _MOST_IDS else []
        argv = ["squeue", "--noheader", "--all", "--states=all", *chosen]
        argv.append(f"--Format={fields},{QUEUE_FIELDS[-1]}:0{end}")
        # Of several, those that Slurm does not know are left out; a refusal says nothing of the others.
        alone = wanted is not None and len(wanted) == 1
        text = self._ask(argv, unknown=_UNKNOWN_JOB if alone else None)
        return {
            job.id: job
            for job in _read(parse_queue, text, separator=separator, end=end)
            if wanted is None or job.id in wanted or job.leader in wanted
        }

    def details(self, job: int) -> JobDetails:
        """Return what Slurm says of one job alone, of the first component of a heterogeneous one.

        Raises `SlurmUnavailable`, also for a job that Slurm no longer knows.
        """
        argv = ["scontrol", "show", "job", "--details", "--oneliner", str(job)]
        return parse_details(self._answer(argv, None).partition("\n")[0])

    def find(self, tag: str) -> SlurmJob | None:
        """Return this user's job with a tag, the first one if there are several; None for none."""
        return next(iter(self._tagged(tag)), None)

    def queue(self) -> list[QueueEntry]:
        """Return the jobs of all users that have nodes or wait for some, with one ``squeue``.

        Where the site hides others' jobs (``PrivateData``), only this user's are among them.
        """
        separator, end = _separators()
        fields = ",".join(f"{name}:0{separator}" for name in ENTRY_FIELDS[:-1])
        argv = ["squeue", "--noheader", "--all", "--array"]
        argv += ["--states=pending,configuring,running,completing,suspended"]
        argv.append(f"--Format={fields},{ENTRY_FIELDS[-1]}:0{end}")
        return _read(parse_entries, self._ask(argv), separator=separator, end=end)

    def expected_start(self, script: JobScript) -> datetime:
        """Return when Slurm would start a job that were submitted now; nothing is submitted.

        Slurm goes by the walltimes of running jobs (``sbatch --test-only``).

        Raises:
            SlurmRefused: Slurm would not accept the job; the message says why and what to do.
            SlurmUnavailable: No answer in time, or none that says when.
            JobScriptError: A value cannot be written into a script.
        """
        text = script.text()
        environment = job_environment(self._environment) | READABLE_TIMES

        def ask() -> str:
            answer = self._run(["sbatch", "--test-only"], environment, text)
            if answer.code > 0 and not AWAY.search(answer.errors):
                raise self._refused(answer.errors, script)
            if answer.code:
                raise SlurmUnavailable(f"sbatch failed: {said(answer.errors, answer.code)}")
            return answer.errors

        words = self._patiently(ask)
        found = _STARTS.search(words)
        at = None if found is None else time_of(found[1])
        if at is None:
            raise SlurmUnavailable(
                f"sbatch --test-only printed {words.strip()!r}, which says no time of a start",
                retryable=False,
            )
        return at

    def accounting(
        self,
        *,
        ids: Collection[int] | None = None,
        user: str | None = None,
        everyone: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[AccountedJob]:
        """Return attempts of jobs from Slurm's accounting, with one ``sacct`` for all of them.

        A job that ended a moment ago may be missing or incomplete. A requeued job has an entry for
        each attempt.

        Args:
            ids: Which jobs; None for all of ``user``.
            user: Whose jobs; None for this process's user.
            everyone: The jobs of all users that Slurm shows to this process's user.
            since: Jobs that were running, waiting or ended after it; aware. None for all time, and
                without ``ids`` for today.
            until: Jobs that were running or waiting before it; aware.

        Raises:
            SlurmUnavailable: The site has no accounting, or its database does not answer.
        """
        if ids is not None and not ids:
            return []
        separator = f"\x1d{secrets.token_hex(4)}"
        argv = ["sacct", "--allocations", "--duplicates", "--noheader", "--parsable2"]
        argv += [f"--delimiter={separator}", f"--format={','.join(ACCOUNTING_FIELDS)}"]
        if ids is not None or everyone:
            argv += ["--allusers"]
        else:  # without it, root gets the jobs of all users
            argv += [f"--user={os.geteuid() if user is None else user}"]
        argv += [f"--starttime={_utc(since)}"] if since else []
        argv += [f"--endtime={_utc(until)}"] if until else []
        found: list[AccountedJob] = []
        for some in [()] if ids is None else _portions(ids):
            chosen = [f"--jobs={','.join(map(str, some))}"] if some else []
            found += _read(parse_accounting, self._ask([*argv, *chosen]), separator=separator)
        return found

    def cancel(
        self, ids: Collection[int], *, signal: str | None = None, patient: bool = True
    ) -> None:
        """Cancel jobs, or send their batch scripts a signal such as ``TERM``; ended ones are left.

        patient: whether it is tried again while the controller does not answer. A component of a heterogeneous job ends with its leader, which must be among them.
        """
        options = [f"--signal={signal}", "--batch"] if signal is not None else []
        for some in _portions(ids):
            argv = ["scancel", *options, *map(str, some)]
            done = _CHANGED_MEANWHILE if len(some) == 1 else _CHANGED_OR_PART
            if patient:
                self._order(argv, done)
            else:
                self._answer(argv, done, refusable=True)

    def hold(self, ids: Collection[int]) -> None:
        """Keep waiting jobs from starting; others are left as they are."""
        self._control("hold", ids)

    def release(self, ids: Collection[int]) -> None:
        """Let held jobs start; others are left as they are."""
        self._control("release", ids)

    def requeue(self, id: int) -> None:  # noqa: A002 - as Slurm calls it
        """End a running job and let it wait again under its id. Raises `SlurmRefused`."""
        self._order(["scontrol", "requeue", str(id)])

    def partitions(self) -> dict[str, Partition]:
        """Return the partitions by name, hidden ones too, which jobs may name; two programs."""
        separator = f"\x1d{secrets.token_hex(4)}"
        fields = ",".join(f"{name}:0{separator}" for name in NODE_FIELDS)
        # Without --exact, unlike nodes are one line with the least of their amounts, as 4+.
        nodes = self._ask(["sinfo", "--noheader", "--all", "--exact", f"--Format={fields}"])
        shown = self._ask(["scontrol", "show", "partition", "--all", "--oneliner"])
        return parse_partitions(shown, nodes, separator=separator, groups=_groups())

    def reservations(self) -> list[Reservation]:
        """Return the reservations that are or will be."""
        return parse_reservations(self._ask(["scontrol", "show", "reservation", "--oneliner"]))

    def licenses(self) -> dict[str, Licence]:
        """Return the licences by name."""
        return parse_licences(self._ask(["scontrol", "show", "licenses", "--oneliner"]))

    def remote_licences(self) -> list[RemoteLicence]:
        """Return the licences of Slurm's database, which an operator made with ``sacctmgr``.

        Raises:
            SlurmRefused: Before Slurm 23.02, which has no count of consumed ones.
            SlurmUnavailable: There is no database, or it does not answer.
        """
        fields = "format=name,server,count,lastconsumed"
        argv = ["sacctmgr", "--noheader", "--parsable2", "show", "resource", fields]
        return _read(parse_remote_licences, self._of_database(argv))

    def set_consumed(self, licence: RemoteLicence, number: int) -> None:
        """Tell Slurm how many remote licences are taken; it starts no job that needs more.

        Raises:
            SlurmRefused: The user is no operator of Slurm's, or there is no such licence.
            SlurmUnavailable: The database does not answer.
        """
        which = [f"name={licence.name}", f"server={licence.server}"]
        change = ["set", f"lastconsumed={number}"]
        self._of_database(["sacctmgr", "--immediate", "modify", "resource", *which, *change])

    def mpi_plugins(self) -> tuple[str, tuple[str, ...]]:
        """Return the site's default for ``srun --mpi``, and what it takes there; two programs."""
        default = self.settings().get("MpiDefault", "")
        listed = self._ask(["srun", "--mpi=list"])
        return default, tuple(listed.split())

    def settings(self) -> dict[str, str]:
        """Return the cluster's configuration, by the names that ``slurm.conf`` has."""
        return parse_settings(self._ask(["scontrol", "show", "config"]))

    def version(self) -> tuple[int, int, int]:
        """Return the version of Slurm's programs, as ``(22, 5, 8)``; asked once."""
        if self._version is None:
            text = self._ask(["sinfo", "--version"])
            found = re.search(r"([0-9]+)\.([0-9]+)\.([0-9]+)", text)
            if found is None:
                raise SlurmUnavailable(
                    f"sinfo --version printed {text.strip()!r}: expected a version of Slurm",
                    retryable=False,
                )
            self._version = (int(found[1]), int(found[2]), int(found[3]))
        return self._version

    def _sbatch(self, text: str, script: JobScript) -> int:
        """Submit once. Raises `SlurmUnavailable`, which says whether the job may be stored."""
        environment = job_environment(self._environment)
        answer = self._run(["sbatch", "--parsable"], environment, text)
        words = answer.errors
        if answer.code == 0:
            first = answer.output.strip().splitlines()[-1:] or [""]
            job = first[0].split(";")[0]
            if job.isdecimal():
                return int(job)
            raise SlurmUnavailable(
                f"sbatch printed {answer.output.strip()!r} instead of a job id: {words}",
                submitted=True,
            )
        if answer.code < 0 or AWAY.search(words):
            raise SlurmUnavailable(
                f"sbatch failed: {said(words, answer.code)}",
                submitted=answer.code < 0 or _DOUBTFUL.search(words) is not None,
            )
        raise self._refused(words, script)

    def _refused(self, words: str, script: JobScript) -> SlurmRefused:
        partitions: Mapping[str, Partition] = {}
        licenses: Mapping[str, Licence] = {}
        with contextlib.suppress(SlurmUnavailable):
            partitions, licenses = self.partitions(), self.licenses()
        return SlurmRefused(
            explain_refusal(words, script.resources, partitions, licenses),
            words=words.strip(),
            passes=_TOO_MANY.search(words) is not None,
        )

    def _stored(self, tag: str, failure: SlurmUnavailable) -> int | None:
        """Return the id of a job that a failed submission left, waiting for it to appear."""
        deadline = self._clock() + self.settle_s
        while True:
            try:
                found = self.find(tag)
            except SlurmUnavailable as error:
                raise _in_doubt(tag, failure) from error
            if found is not None:
                return found.id
            if self._clock() >= deadline:
                return None
            self._sleep(0.5)

    def _first_of(self, tag: str, job: int) -> int:
        """Leave one of the jobs with a tag: an earlier submission may have arrived late."""
        try:
            same = [one.id for one in self._tagged(tag)] or [job]
            self.cancel(same[1:])
        except (SlurmUnavailable, SlurmRefused):
            return job  # it is there; whoever takes over jobs by their tags cancels a second one
        return same[0]

    def _tagged(self, tag: str) -> list[SlurmJob]:
        found = [job for job in self.jobs().values() if job.comment == tag and not job.component]
        return sorted((job for job in found if not job.was_refused), key=lambda job: job.id)

    def _control(self, verb: str, ids: Collection[int]) -> None:
        for some in _portions(ids):
            listed = ",".join(map(str, some))
            self._order(["scontrol", verb, listed], _CHANGED_MEANWHILE)

    def _of_database(self, argv: Sequence[str]) -> str:
        """Run a program about remote licences, and return its output."""
        try:
            return self._patiently(lambda: self._answer(argv, None, refusable=True))
        except SlurmRefused as error:
            version = self.version()
            if version >= REMOTE_LICENCES_SINCE:
                raise
            shown = ".".join(map(str, version))
            raise SlurmRefused(
                f"{error}. Slurm {shown} does not count consumed remote licences: 23.02 and later do",
                words=error.words,
            ) from None


def _groups() -> frozenset[str]:
    """Return the names of this process's groups."""
    found = set()
    for number in {os.getegid(), *os.getgroups()}:
        with contextlib.suppress(KeyError):  # a group that this machine does not know
            found.add(grp.getgrgid(number).gr_name)
    return frozenset(found)


def _separators() -> tuple[str, str]:
    # Random: no name of a job that somebody chose before can hold it.
    token = secrets.token_hex(4)
    return f"\x1d{token}", f"\x1e{token}"


def _read(parse: Callable[..., list[_Record]], text: str, **separators: str) -> list[_Record]:
    try:
        return parse(text, **separators)
    except ValueError as error:
        raise SlurmUnavailable(f"{error}; is this a version of Slurm that hpcqc knows?") from error


def _in_doubt(tag: str, failure: SlurmUnavailable) -> SlurmUnavailable:
    return SlurmUnavailable(
        f"{failure}; the job may have been submitted all the same: its comment is {tag!r}",
        retryable=failure.retryable,
        submitted=True,
    )


def _portions(ids: Collection[int]) -> Iterator[tuple[int, ...]]:
    ordered = sorted(set(ids))
    for start in range(0, len(ordered), _MOST_IDS):
        yield tuple(ordered[start : start + _MOST_IDS])


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
