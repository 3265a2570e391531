"""Credentials of Munge, by its own program: who this user is, for a server of the same site."""

from __future__ import annotations

import re
import shutil
import subprocess

from backends.errors import AccessDenied
from backends.site_access import Token

__all__ = ["MungeCredentials"]

_CREDENTIAL = re.compile(r"MUNGE:[A-Za-z0-9+/=]+:")
_ANSWER_S = 10.0


class MungeCredentials:
    """A fresh credential for each request: a server may refuse one that it has seen.

    socket: of the daemon; None for the usual one.
    """

    def __init__(self, socket: str | None = None) -> None:
        self._socket = socket

    def read(self) -> Token:
        """See `TokenSource.read`."""
        program = shutil.which("munge")
        if program is None:
            raise AccessDenied(
                "the program 'munge' is not on the PATH; run hpcqc on a machine of the site, where "
                "Munge is installed"
            )
        command = [program, "--no-input"]
        if self._socket is not None:
            command.append(f"--socket={self._socket}")
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_ANSWER_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise AccessDenied(f"'munge' does not answer: {error}") from None
        text = done.stdout.strip()
        if done.returncode or not _CREDENTIAL.fullmatch(text):
            reason = " ".join(done.stderr.split()) or f"it ended with {done.returncode}"
            raise AccessDenied(f"'munge' gives no credential: {reason:.200}; is munged running?")
        return Token(text=text)
