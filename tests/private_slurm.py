"""A real Slurm for the tests: a private one, or the cluster that the environment points to."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MISSING = (
    "Slurm is not installed; as root: sh .ci/install-system-packages"
    if shutil.which("slurmctld") is None
    else "Slurm's daemons start jobs as other users: run these tests as root"
)
_SCRIPT = Path(__file__).resolve().parents[1] / ".ci" / "slurm.py"
# Read when the tests begin, before they clean the environment.
_EXISTING = (
    {name: value for name, value in os.environ.items() if name.startswith("SLURM_")}
    if os.environ.get("HPCQC_TEST_SLURM") == "existing"
    else None
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmForTests:
    """environment: for programs that use the cluster. root: of a private one, else None."""

    environment: dict[str, str]
    root: Path | None

    def run(self, argv: Sequence[str], *, timeout_s: float = 60) -> str:
        """Run one of Slurm's programs and return what it prints; raise when it fails."""
        ended = subprocess.run(
            argv,
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=self.environment,
        )
        if ended.returncode:
            raise AssertionError(f"{argv} ended with {ended.returncode}: {ended.stderr}")
        return ended.stdout

    def queue(self) -> list[str]:
        """Return id, state and name of each job that has not ended."""
        return self.run(["squeue", "--noheader", "--format=%i %T %j"]).splitlines()

    def kill(self, daemon: str) -> None:
        """Kill a daemon of the private Slurm: ``slurmctld``, ``slurmdbd``, ``slurmd.c1`` …"""
        assert self.root is not None, "an existing cluster is not for killing"
        os.kill(int((self.root / "run" / f"{daemon}.pid").read_text()), signal.SIGKILL)

    def restart(self) -> None:
        """Start what was killed, and take back drained nodes."""
        assert self.root is not None
        _script("start", self.root)


@contextmanager
def slurm_for_tests() -> Iterator[SlurmForTests | None]:
    """Yield a private Slurm, or the existing cluster; None where there is no Slurm."""
    if _EXISTING is not None:
        yield SlurmForTests(environment={**os.environ, **_EXISTING}, root=None)
        return
    if shutil.which("slurmctld") is None or os.geteuid():
        yield None
        return
    root = Path(tempfile.mkdtemp(prefix="hpcqc-slurm-"))
    root.chmod(0o755)  # other users submit jobs, too
    try:
        _script("start", root)
        conf = str(root / "etc" / "slurm.conf")
        yield SlurmForTests(environment={**os.environ, "SLURM_CONF": conf}, root=root)
    finally:
        _script("stop", root)
        shutil.rmtree(root, ignore_errors=True)


def _script(verb: str, root: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(_SCRIPT), verb, "--root", str(root)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if ended.returncode:
        raise RuntimeError(f"the private Slurm did not {verb}: {ended.stderr}")
