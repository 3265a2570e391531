"""Errors: whether the user must change something, in one line, and where they arose."""

from __future__ import annotations

import traceback
from importlib.metadata import entry_points
from pathlib import Path

from orchestrator.names import EXTENSION_GROUPS, OUR_PACKAGES

__all__ = ["is_mistake", "place_of", "reason"]

_GROUPS = ("hpcqc.flows", *EXTENSION_GROUPS)


def is_mistake(error: BaseException, flow_folder: Path | None = None) -> bool:
    """Whether an error says that the user must change something before it can work.

    The rule: it is an instance of a ``ValueError`` subclass that is defined by one of our
    packages, by a package that registers a flow or an extension, or beside the flow in
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
