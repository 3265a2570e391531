"""What goes wrong between hpcqc and Slurm: a request that Slurm refuses, or no answer."""

from __future__ import annotations

__all__ = ["JobScriptError", "SlurmRefused", "SlurmUnavailable"]


class JobScriptError(ValueError):
    """A value cannot be written into a batch script."""


class SlurmRefused(ValueError):
    """Slurm refuses a request, and repeating it does not help: the user must change something.

    Attributes:
        words: What Slurm itself printed.
    """

    def __init__(self, message: str, *, words: str = "") -> None:
        super().__init__(message)
        self.words = words


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
