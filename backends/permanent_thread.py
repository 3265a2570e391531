"""Load Qiskit's native library on a thread that stays.

Qiskit from 2.5 on allocates with mimalloc 3.3, which takes the loading thread for the main one.
If that thread ends, a later thread with its number crashes the process at its first allocation
(microsoft/mimalloc#1287). Dask and Prefect import Qiskit on threads that come and go.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

__all__ = ["guard_import"]

_LIBRARY = "qiskit._accelerate"
# The system hands out the places of threads that are gone; one of so many is the right one.
_STAND_INS = 64


class _Loader:
    """Finds nothing; sees who is about to load the library, and has it loaded before."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return None: the usual finders go on with the import."""
        if fullname != _LIBRARY:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        in_main = threading.current_thread() is threading.main_thread()
        if spec is not None and spec.origin and not in_main:
            # Not above, because every command imports this module, and not on the other thread,
            # because this one holds the lock of imports while it waits.
            import ctypes

            loaded = threading.Event()
            load = partial(_load_and_stay, partial(ctypes.CDLL, spec.origin), loaded)
            stays = threading.Thread(target=load, name="qiskit-stays", daemon=True)
            stays.start()
            loaded.wait()
            os.register_at_fork(after_in_child=lambda: _stand_in(stays.ident))
        return None


def guard_import() -> None:
    """Let this process import Qiskit on any thread, unless Qiskit is imported already."""
    watching = any(isinstance(finder, _Loader) for finder in sys.meta_path)
    if not watching and _LIBRARY not in sys.modules:
        sys.meta_path.insert(0, _Loader())


def _load_and_stay(load: Callable[[], object], loaded: threading.Event) -> None:
    try:
        load()
    except OSError:  # the import says what is wrong
        return
    finally:
        loaded.set()
    threading.Event().wait()


def _stand_in(number: int | None) -> None:
    """In a forked child, where the thread is gone, give its number to another that stays."""
    told = threading.Event()

    def stay() -> None:
        told.wait()
        if threading.get_ident() == number:
            threading.Event().wait()

    for _ in range(_STAND_INS):
        thread = threading.Thread(target=stay, name="qiskit-stays", daemon=True)
        thread.start()
        if thread.ident == number:
            break
    told.set()
