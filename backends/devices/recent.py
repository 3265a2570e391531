"""A target that is asked for often, and must be known while its device is not reachable."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from backends.api import Heard, QpuUnavailable, Target
from backends.targets import target_from_json

__all__ = ["RecentTarget"]

# The broker asks at each submission, on its event loop; devices change theirs within hours.
_FRESH_S = 1.0


class RecentTarget:
    """The target that ``read`` states as JSON, read again after a second."""

    def __init__(self, read: Callable[[], Mapping[str, Any]]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._target: Target | None = None
        self._read_at = 0.0
        self._heard = Heard()

    @property
    def heard(self) -> Heard:
        """When it was last read."""
        return self._heard

    def get(self) -> Target:
        """Return the target, the last known one while it cannot be read.

        Raises `QpuUnavailable` if none was ever read, and for one that is invalid.
        """
        with self._lock:
            if self._target is not None and time.monotonic() - self._read_at < _FRESH_S:
                return self._target
            try:
                stated = self._read()
            except QpuUnavailable:
                if self._heard.silent_since_s is None:
                    self._heard = replace(self._heard, silent_since_s=time.time())
                if self._target is None:
                    raise
                return self._target
            try:
                self._target = target_from_json(stated)
            except ValueError as error:
                raise QpuUnavailable(f"the backend's process states an {error}") from error
            self._read_at = time.monotonic()
            self._heard = Heard(at_s=time.time())
            return self._target
