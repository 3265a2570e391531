"""The logs of a run: what its process logged, and what its driver job printed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from orchestrator.application.known_runs import known_run
from orchestrator.application.register import (
    RegisteredRun,
    find_registered,
    log_files,
    unknown_run,
)
from orchestrator.arguments import expect
from orchestrator.config.loading import load_site
from orchestrator.config.site import Site

__all__ = ["LogText", "follow_logs", "run_logs"]

_LOOK_EVERY_S = 0.3
_STATE_EVERY = 5  # looks at the logs for one at the state of the run


@dataclass(frozen=True, slots=True, kw_only=True)
class LogText:
    """What was added to a log since it was read last."""

    path: Path
    text: str


def run_logs(run: str, *, lines: int = 40, site: Path | str | None = None) -> Mapping[Path, str]:
    """Return the ends of a run's logs.

    Args:
        run: Its id, or the unambiguous start of it.
        lines: How many lines of each log.
        site: Path of a site file; None for the one that the usual lookup finds.

    Returns:
        Text by the path of each log that there is: ``run.log`` in the run's folder, and the output
        of its driver job.

    Raises:
        ConfigError: There is no such run, or there are several.
    """
    expect("run", run, str, "a run's id, or the start of one")
    here = load_site(site)
    registered = _registered(here, run)
    return {path: _end(path, lines) for path in log_files(here.state_dir, registered)}


def follow_logs(run: str, *, site: Path | str | None = None) -> Iterator[LogText]:
    """Yield what is written to a run's logs from now on, until the run has ended.

    Args:
        run: Its id, or the unambiguous start of it.
        site: Path of a site file; None for the one that the usual lookup finds.

    Returns:
        An iterator of pieces of text, each with the log that it was written to. It waits for the
        next one.

    Raises:
        ConfigError: There is no such run, or there are several.
    """
    here = load_site(site)
    registered = _registered(here, run)
    begun = set(log_files(here.state_dir, registered))
    looks = 0
    with ExitStack() as opened:
        logs: dict[Path, IO[str]] = {}
        while True:
            # Before the last look, so that nothing is missed.
            over = looks % _STATE_EVERY == 0 and not _goes_on(here, registered.id)
            for path in log_files(here.state_dir, registered):
                if path not in logs:
                    logs[path] = opened.enter_context(path.open(encoding="utf-8", errors="replace"))
                    if path in begun:
                        logs[path].seek(0, 2)
                if text := logs[path].read():
                    yield LogText(path=path, text=text)
            if over:
                return
            looks += 1
            time.sleep(_LOOK_EVERY_S)


def _registered(site: Site, run: str) -> RegisteredRun:
    found = find_registered(site.state_dir, run)
    if found is None:
        raise unknown_run(site.state_dir, run)
    return found


def _goes_on(site: Site, run: str) -> bool:
    return known_run(site, run).state in ("pending", "running")


def _end(path: Path, lines: int) -> str:
    with path.open(encoding="utf-8", errors="replace") as log:
        return "".join(deque(log, maxlen=lines))
