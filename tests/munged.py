"""A Munge daemon of a test's own, and the programs that use it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.patience import until

__all__ = ["munge_programs"]

# A test may put a library in place of libmunge, for others than these programs.
_WRAPPER = '#!/bin/sh\nunset LD_LIBRARY_PATH\nexec {program} --socket={socket} "$@"\n'


@contextmanager
def munge_programs(folder: Path) -> Iterator[Path]:
    """Run munged; yield a folder whose ``munge`` and ``unmunge`` use it. Skip without Munge."""
    programs = {name: shutil.which(name) for name in ("munge", "unmunge")}
    daemon = shutil.which("munged") or shutil.which("munged", path="/usr/sbin")
    if daemon is None or None in programs.values():
        pytest.skip("no Munge on this machine")
    folder.mkdir(mode=0o711, parents=True)
    key, socket = folder / "key", folder / "socket"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    bin_ = folder / "bin"
    bin_.mkdir()
    for name, program in programs.items():
        wrapper = bin_ / name
        wrapper.write_text(_WRAPPER.format(program=program, socket=socket))
        wrapper.chmod(0o755)
    process = subprocess.Popen(
        [
            daemon,
            "--foreground",
            "--force",  # the folder may be below one that others can write to
            f"--socket={socket}",
            f"--key-file={key}",
            f"--pid-file={folder / 'pid'}",
            f"--log-file={folder / 'log'}",
            f"--seed-file={folder / 'seed'}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: socket.exists() or process.poll() is not None)
        if process.poll() is not None:
            pytest.skip(f"munged does not run here: {process.returncode}")
        yield bin_
    finally:
        process.terminate()
        process.wait()
