"""A PostgreSQL server of a test session's own: on a Unix socket, in a temporary folder."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from pathlib import Path

from tests.patience import until

MISSING = "PostgreSQL's server is not installed; as root: sh .ci/install-system-packages"
_PR_SET_PDEATHSIG = 1


def server_folder() -> Path | None:
    """Return where initdb and postgres are; Debian keeps them off the PATH."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


class PostgresServer:
    """One cluster. Its processes end with the tests, however those end."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="hpcqc-pg-"))
        # PostgreSQL refuses to run as root.
        self._user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        if os.geteuid() != 0:
            self._user = {}
        else:
            shutil.chown(self.folder, "nobody", "nogroup")
        self._data = self.folder / "data"
        self._log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        options = ["-U", "hpcqc", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]
        self._run("initdb", "-D", str(self._data), *options)

    def start(self) -> None:
        socket = f"unix_socket_directories={self.folder}"
        arguments = ["-D", str(self._data), "-c", "listen_addresses=", "-c", socket]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509  # one system call, no lock
                **self._user,
            )
        ready = [str(self._programs / "pg_isready"), "-q", "-h", str(self.folder)]

        def answered_or_ended() -> bool:
            answered = subprocess.run(ready, check=False).returncode == 0
            return answered or self._process.poll() is not None

        until(answered_or_ended, self._log.read_text, pause_s=0.05)
        if self._process.poll() is not None:
            raise RuntimeError(f"PostgreSQL did not start:\n{self._log.read_text()[-2000:]}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT in order, SIGQUIT as in a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        self.stop(how)
        self.start()

    def close(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_database(self) -> str:
        """Create an empty database; return its URL."""
        name = f"t{uuid.uuid4().hex}"
        self._run("createdb", "-h", str(self.folder), "-U", "hpcqc", name)
        return f"postgresql+psycopg://hpcqc@/{name}?host={self.folder}"

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            capture_output=True,
            text=True,
            cwd=self.folder,
            check=False,
            **self._user,
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr}")


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)
