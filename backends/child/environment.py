"""Where a backend's process runs: its command, its variables and its bounds."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "DEFAULT_MEMORY_BYTES",
    "Environment",
    "child_command",
    "child_variables",
    "installer_variables",
]

DEFAULT_MEMORY_BYTES = 8 << 30

# What programs need to find their files, speak the user's language and reach the network. Tokens
# and passwords are in none of these; a backend gets its own with its options, through the pipe.
_PASSED = frozenset({
    "CURL_CA_BUNDLE", "HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LOGNAME", "NO_PROXY",
    "no_proxy", "PATH", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE", "TEMP", "TMP",
    "TMPDIR", "TZ", "USER", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR",
    "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy",
})  # fmt: skip
_PASSED_FAMILIES = ("LC_",)
# What pip needs besides: all proxies, and the compilers of packages that have no wheel.
_PASSED_TO_PIP = frozenset({
    "ALL_PROXY", "all_proxy", "CC", "CFLAGS", "CPPFLAGS", "CXX", "CXXFLAGS", "LDFLAGS", "NETRC",
})  # fmt: skip
# Lead pip to another environment.
_MISLEADING = frozenset({
    "PIP_PREFIX", "PIP_PYTHON", "PIP_REQUIRE_VIRTUALENV", "PIP_ROOT", "PIP_TARGET", "PIP_USER",
})  # fmt: skip

# The package is found by its place, so that the environment needs no hpcqc and its own modules
# stay where they are. -I keeps the working directory and PYTHON* variables out.
_BOOT = """\
import sys
if sys.version_info < (3, 11):
    sys.exit("Python %d.%d is too old; hpcqc's backends need 3.11 or newer" % sys.version_info[:2])
from importlib.util import module_from_spec, spec_from_file_location
root = sys.argv[1]
spec = spec_from_file_location("backends", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["backends"] = package = module_from_spec(spec)
spec.loader.exec_module(package)
from backends.child.server import main
main()
"""
_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where a backend's process runs.

    interpreter: path of the environment's Python, which is given the child's code; None if
    ``command`` is set. command: a whole command that serves the protocol on its standard input
    and output, such as a container with ``python -m backends.child``.
    memory_bytes: most that the process may allocate. open_s: longest that importing the SDK and
    opening the device may take. call_s: longest that a call may take.
    """

    interpreter: str | None = None
    command: tuple[str, ...] = ()
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    open_s: float = 180.0
    call_s: float = 30.0

    @classmethod
    def current(cls, **changes: int | float) -> Environment:
        """Return the environment of this process, for a child that shares its packages."""
        return cls(interpreter=sys.executable, **changes)  # type: ignore[arg-type]  # as named


def child_command(environment: Environment) -> list[str]:
    """Return the command of the process; nothing secret is in it."""
    if environment.interpreter is None:
        return list(environment.command)
    return [environment.interpreter, "-I", "-c", _BOOT, str(_PACKAGE)]


def child_variables(
    more: Sequence[str] = (), *, source: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the variables that a child gets: a fixed few, and those that its backend asks for."""
    given = os.environ if source is None else source
    return {
        name: value
        for name, value in given.items()
        if name in _PASSED or name in more or name.startswith(_PASSED_FAMILIES)
    }


def installer_variables(*, source: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that pip gets: those of a child, pip's own, and a few for building.

    The build of a package runs its code, which must not find tokens in the user's variables.
    """
    given = os.environ if source is None else source
    own = {
        name
        for name in given
        if name in _PASSED_TO_PIP or (name.startswith("PIP_") and name not in _MISLEADING)
    }
    return child_variables(sorted(own), source=given)
