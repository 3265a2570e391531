"""Slurm's programs, run with time limits and patience; no other module runs them."""

from __future__ import annotations

import math
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.config.environment import process_environment
from orchestrator.slurm.errors import SlurmRefused, SlurmUnavailable

__all__ = ["AWAY", "READABLE_TIMES", "SlurmPrograms", "said"]

_LEAST_S = 2.0  # for a program, after `hurry`
_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0)
# What programs print while nobody answers them.
AWAY = re.compile(
    r"unable to contact slurm controller|socket timed out|zero bytes were transmitted|"
    r"connection refused|connection timed out|controller in standby|temporarily unable|"
    r"resource temporarily unavailable|unexpected message received|transport endpoint|"
    r"protocol authentication error|broken pipe|problem talking to the database|"
    r"connection reset|munged|slurm_persist_conn|database is (down|busy)|"
    r"configuration (source|file)|unable to (contact|connect)|in standby|"
    r"communication (connection|shutdown) failure|message (send|receive) failure|"
    r"insane message length|unable to create job record|not available right now",
    re.IGNORECASE,
)
_NO_ACCOUNTING = re.compile(r"accounting storage is disabled", re.IGNORECASE)
READABLE_TIMES = {"SLURM_TIME_FORMAT": "%s", "TZ": "UTC"}
_QUERY_KEEPS = ("SLURM_CONF", "SLURM_JWT")


class SlurmPrograms:
    """Runs programs. One that does not end in time is killed.

    While the controller does not answer, a call is repeated with growing pauses until
    ``patience_s`` is over; then it raises `SlurmUnavailable`.

    Args:
        timeout_s: How long one program may take.
        patience_s: How long a call waits for a controller that does not answer, besides the time
            that its last program takes; 0 asks once.
        environment: Where programs are found and configured; None for this process's own.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 60.0,
        patience_s: float = 60.0,
        environment: Mapping[str, str] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.timeout_s = timeout_s
        self.patience_s = patience_s
        self._environment = environment
        self._sleep = sleep
        self._clock = clock
        self._ends_at: float | None = None  # by the clock, after `hurry`

    def hurry(self, seconds: float) -> None:
        """Let no call wait for longer than so many seconds from now, also of those under way."""
        self._ends_at = self._clock() + seconds

    def _ask(self, argv: Sequence[str], *, unknown: re.Pattern[str] | None = None) -> str:
        """Run a query and return its output. Raises only `SlurmUnavailable`."""
        return self._patiently(lambda: self._answer(argv, unknown))

    def _order(self, argv: Sequence[str], done: re.Pattern[str] | None = None) -> None:
        """Run a program that changes jobs; an error that says it is ``done`` is none."""
        self._patiently(lambda: self._answer(argv, done, refusable=True))

    def _patiently(self, call: Callable[[], str]) -> str:
        started = self._clock()
        for pause in self._pauses():
            try:
                return call()
            except SlurmUnavailable as error:
                if not error.retryable or self._is_over(started):
                    raise
            self._pause(pause)
        raise AssertionError("there is always a next pause")

    def _is_over(self, started: float) -> bool:
        """Whether a call has no patience left."""
        return self._clock() >= started + self.patience_s or self._left_s() <= 0

    def _left_s(self) -> float:
        """Return how long calls may take yet."""
        return math.inf if self._ends_at is None else self._ends_at - self._clock()

    def _pause(self, seconds: float) -> None:
        self._sleep(min(seconds, max(self._left_s(), 0.0)))

    def _answer(
        self, argv: Sequence[str], harmless: re.Pattern[str] | None, *, refusable: bool = False
    ) -> str:
        answer = self._run(argv, self._query_environment())
        if answer.code == 0:
            return answer.output
        lines = [line for line in answer.errors.splitlines() if line.strip()]
        if harmless is not None and lines and all(harmless.search(line) for line in lines):
            return answer.output
        words = answer.errors.strip() or answer.output.strip()  # as sacctmgr does
        verb = next((word for word in argv[1:] if not word.startswith("-")), argv[1])
        message = f"`{argv[0]} {verb}` failed: {said(words, answer.code)}"
        if _NO_ACCOUNTING.search(answer.errors):
            raise SlurmUnavailable(f"{message}; this cluster keeps no accounting", retryable=False)
        if refusable and answer.code > 0 and not AWAY.search(answer.errors):
            raise SlurmRefused(message, words=words)
        raise SlurmUnavailable(message)

    def _run(
        self, argv: Sequence[str], environment: Mapping[str, str], text: str | None = None
    ) -> _Answer:
        """Run a program once. Raises `SlurmUnavailable` if it is missing or takes too long."""
        timeout_s = min(self.timeout_s, max(self._left_s(), _LEAST_S))
        try:
            done = subprocess.run(
                argv,
                input=text or "",
                env=dict(environment),
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=timeout_s,
                umask=0o077,  # Slurm makes a job's output with the mask of its submission
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise SlurmUnavailable(
                f"{argv[0]} did not answer within {timeout_s:.3g} s", submitted=True
            ) from None
        except FileNotFoundError:
            raise SlurmUnavailable(
                f"there is no program {argv[0]!r} on the PATH: hpcqc needs Slurm's commands on this "
                "machine, or another compute kind in the site file",
                retryable=False,
            ) from None
        except OSError as error:
            raise SlurmUnavailable(
                f"{argv[0]} cannot be run: {error.strerror}", retryable=False
            ) from error
        return _Answer(done.returncode, done.stdout, done.stderr)

    def _query_environment(self) -> dict[str, str]:
        known = process_environment(self._environment)
        kept = {
            name: value
            for name, value in known.items()
            # A user's SQUEUE_FORMAT and the like would change what is printed.
            if not name.startswith(
                ("SLURM_", "SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_", "SCONTROL_")
            )
            or name in _QUERY_KEEPS
        }
        return kept | READABLE_TIMES

    def _pauses(self) -> Iterator[float]:
        yield from _PAUSES_S
        while True:
            yield _PAUSES_S[-1]


@dataclass(frozen=True, slots=True)
class _Answer:
    code: int
    output: str
    errors: str


def said(words: str, code: int) -> str:
    """Return what a program printed about its end, in a line."""
    return " ".join(words.split()) or f"exit status {code}"
