"""When something that died is started again: a back-off that grows, and shrinks with health."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["RestartPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """How long to wait before the next start.

    The first death within ``window_s`` costs ``first_s``, each further one twice as much as the
    one before, up to ``longest_s``. ``limit`` deaths within the window are the last: None never
    gives up.
    """

    first_s: float = 0.1
    longest_s: float = 30.0
    window_s: float = 300.0
    limit: int | None = None

    def delay_s(self, deaths: Sequence[float], now: float) -> float | None:
        """Return the seconds to wait after the last of these deaths, None to give up.

        deaths, now: on one clock, in seconds.

        >>> policy = RestartPolicy(first_s=1.0, longest_s=5.0, window_s=60.0, limit=5)
        >>> [policy.delay_s([10.0] * count, now=20.0) for count in (1, 2, 3, 4, 5)]
        [1.0, 2.0, 4.0, 5.0, None]
        >>> policy.delay_s([10.0, 10.0, 10.0, 100.0], now=100.0)
        1.0
        """
        recent = sum(1 for death in deaths if now - death <= self.window_s)
        if self.limit is not None and recent >= self.limit:
            return None
        doublings = min(max(recent - 1, 0), 32)
        return float(min(self.first_s * 2**doublings, self.longest_s))
