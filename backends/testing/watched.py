"""A backend under observation: how long its calls take and what they raise."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from backends.api import Backend, BackendError

__all__ = ["ContractBroken", "Watched"]


class ContractBroken(AssertionError):
    """A call took too long or raised something that is not a ``BackendError``."""


class Watched:
    """Forwards every call of ``Backend`` and checks that it is prompt and raises rightly.

    prompt_s: longest a call may take; `close` may take longer.
    """

    def __init__(self, backend: Backend, prompt_s: float) -> None:
        self.inner = backend
        self._prompt_s = prompt_s

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return a method of the backend, watched."""
        method: Callable[..., Any] = getattr(self.inner, name)

        def watched(*arguments: Any) -> Any:
            started = time.monotonic()
            try:
                return method(*arguments)
            except BackendError:
                raise
            except Exception as error:
                raise ContractBroken(
                    f"{name}() raised {type(error).__name__}: {error}; only BackendErrors may come "
                    "out"
                ) from error
            finally:
                took_s = time.monotonic() - started
                if took_s > self._prompt_s:
                    raise ContractBroken(
                        f"{name}() took {took_s:.2f} s; every call must return within "
                        f"{self._prompt_s} s and leave the work to run by itself"
                    )

        return method if name == "close" else watched
