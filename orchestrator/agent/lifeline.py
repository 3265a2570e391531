"""Child processes that end when their parent does, however that one ended.

``python -m orchestrator.agent.lifeline PARENT GRACE_S MODULE [ARGUMENT …]`` runs a module as one.
"""

from __future__ import annotations

import os
import runpy
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import IO

__all__ = ["PARENT", "end_with", "start_module"]

# The variable with the process id of the parent.
PARENT = "HPCQC_AGENT_PARENT"
_LOOK_EVERY_S = 0.2


def start_module(
    module: str,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    output: IO[bytes],
    sockets: Collection[int] = (),
    grace_s: float,
) -> subprocess.Popen[bytes]:
    """Run a module in a session of its own, which ends with this process, as `end_with` does."""
    own = str(os.getpid())
    # -P: modules in the working folder do not shadow installed ones.
    command = [sys.executable, "-P", "-m", "orchestrator.agent.lifeline", own, str(grace_s)]
    return subprocess.Popen(
        [*command, module, *arguments],
        env={**environment, PARENT: own},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=tuple(sockets),
        start_new_session=True,
    )


def end_with(parent: int, grace_s: float) -> None:
    """End this process when ``parent`` is gone: SIGTERM, and SIGKILL after ``grace_s``.

    SIGKILL goes to its group if it leads one. Without a grace there is no SIGTERM.
    """
    try:
        handle = os.pidfd_open(parent)
    except OSError:  # a kernel without them, or no such process
        handle = None
    if os.getppid() != parent:  # gone already: orphans are given another parent
        _end(grace_s)
        return
    threading.Thread(
        target=_watch, args=(parent, handle, grace_s), name="lifeline", daemon=True
    ).start()


def _watch(parent: int, handle: int | None, grace_s: float) -> None:
    if handle is not None:
        select.select([handle], [], [])  # readable once the process has ended: pidfd_open(2)
    else:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY_S)
    _end(grace_s)


def _end(grace_s: float) -> None:
    if grace_s > 0:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_s)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _main() -> None:
    os.umask(0o077)  # files that it writes are readable by their owner alone
    parent, grace_s, module, *arguments = sys.argv[1:]
    end_with(int(parent), float(grace_s))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
