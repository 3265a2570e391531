"""What goes wrong between hpcqc and Slurm: a request that Slurm refuses, or no answer."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from typing import Final

__all__ = [
    "LONGEST_REFUSAL_S",
    "JobScriptError",
    "SlurmRefused",
    "SlurmUnavailable",
    "left_behind",
]

# So long a job is submitted again that Slurm refuses for the number of the user's jobs alone: they may
# end, or may be ones that wait for this one.
LONGEST_REFUSAL_S: Final = 3600.0


class JobScriptError(ValueError):
    """A value cannot be written into a batch script."""


class SlurmRefused(ValueError):
    """Slurm refuses a request, and repeating it does not help: the user must change something.

    Attributes:
        words: What Slurm itself printed.
        passes: Whether it may accept the same later: a limit on the number of jobs is reached now.
    """

    def __init__(self, message: str, *, words: str = "", passes: bool = False) -> None:
        super().__init__(message)
        self.words = words
        self.passes = passes


class SlurmUnavailable(RuntimeError):
    """Slurm did not answer.

    Attributes:
        retryable: Whether the same call may succeed later without a change by the user.
        submitted: Whether a submission that failed this way may have been stored all the same.
    """

    def __init__(self, message: str, *, retryable: bool = True, submitted: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.submitted = submitted


def left_behind(run: str, jobs: Collection[int], fault: Exception | str) -> str:
    """Return a sentence on jobs of a run that could not be cancelled, and how to end them.

    fault: why.

    >>> left_behind("scan", {8, 7}, SlurmUnavailable("`scancel 7` failed"))
    'jobs of run scan may be left in Slurm (`scancel 7` failed); end them with `scancel 7 8`, or with \
`hpcqc cancel scan` once Slurm answers'
    """
    listed = " ".join(map(str, sorted(jobs)))
    direct = f"`scancel {listed}`, or with " if jobs else ""
    return (
        f"jobs of run {run} may be left in Slurm ({fault}); end them with {direct}"
        f"`hpcqc cancel {shlex.quote(run)}` once Slurm answers"
    )
