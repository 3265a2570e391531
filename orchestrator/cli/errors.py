"""What went wrong, told in one paragraph with the exit code that belongs to it."""

from __future__ import annotations

import sys
import traceback
from importlib.metadata import entry_points
from pathlib import Path

from orchestrator.cli.output import print_error, print_json
from orchestrator.names import OUR_PACKAGES

__all__ = ["FAILED", "MISTAKE", "end_with", "is_mistake", "place_of", "reason"]

FAILED, MISTAKE = 1, 2
_GROUPS = ("hpcqc.flows", "orchestrator.backends")
_FRAMES_SHOWN = 1


def is_mistake(error: BaseException, flow_folder: Path | None = None) -> bool:
    """Whether an error says that the user must change something before it can work.

    The rule: it is an instance of a ``ValueError`` subclass that is defined by one of our
    packages, by a package that registers a backend or a flow, or beside the flow in
    ``flow_folder``. A plain ``ValueError``, from anywhere, is a failure of the code that raised it.
    """
    if not isinstance(error, ValueError):
        return False
    package = type(error).__module__.split(".")[0]
    if package in OUR_PACKAGES or package in _plugins():
        return True
    if flow_folder is None or package == "builtins":
        return False
    return (flow_folder / f"{package}.py").exists() or (flow_folder / package).is_dir()


def _plugins() -> set[str]:
    points = [point for group in _GROUPS for point in entry_points(group=group)]
    return {point.module.split(".")[0] for point in points}


def reason(error: BaseException) -> str:
    """Return an error as one line; the type is named where the message alone says little."""
    text = " ".join(str(error).split())
    if is_mistake(error) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def place_of(error: BaseException, flow_folder: Path | None) -> str | None:
    """Return file and line of the user's code, beside the flow, in which an error arose."""
    found = None
    cause: BaseException | None = error
    while cause is not None:
        for frame in traceback.extract_tb(cause.__traceback__):
            path = Path(frame.filename)
            if flow_folder in path.parents and "site-packages" not in path.parts:
                found = f"{path.relative_to(str(flow_folder))}:{frame.lineno}"
        cause = cause.__cause__
    return found


def end_with(error: Exception, *, as_json: bool) -> int:
    """Tell an error that ended a command; return the exit code."""
    if is_mistake(error):
        message, code, kind = reason(error), MISTAKE, "mistake"
    else:
        frame = traceback.extract_tb(error.__traceback__)[-_FRAMES_SHOWN:]
        # An error of ours says all there is to know; another's is known by where it arose.
        ours = type(error).__module__.split(".")[0] in OUR_PACKAGES
        place = f" ({frame[0].filename}:{frame[0].lineno})" if frame and not ours else ""
        message, code, kind = f"{reason(error)}{place}", FAILED, "failure"
    print_error(message)
    if as_json:
        print_json({"error": {"kind": kind, "message": message}}, file=sys.stdout)
    return code
