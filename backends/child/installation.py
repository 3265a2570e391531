"""Making the managed environment of a backend: a venv, its packages, a lock, a trial import."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from backends.child.environment import child_variables, installer_variables
from backends.child.managed import (
    CURRENT,
    LOCK,
    ManagedEnvironment,
    check_private,
    managed_environment,
    write_manifest,
)
from backends.registry import BackendPackages, packages_of

__all__ = ["InstallationFailed", "install"]

_STEP_S = 3600.0
# Two attempts of 20 s tell a missing network from a slow one.
_PIP = ("--no-input", "--disable-pip-version-check", "--retries", "2", "--timeout", "20")
_UNREACHABLE = (
    "NewConnectionError", "ConnectTimeoutError", "Failed to establish a new connection",
    "Temporary failure in name resolution", "Connection refused", "ProxyError",
)  # fmt: skip


class InstallationFailed(Exception):
    """An environment could not be made; the one that was there before is unchanged."""


def install(
    backend: str,
    environments: Path,
    *,
    lock: Path | None = None,
    upgrade: bool = False,
    progress: Callable[[str], None] = lambda _text: None,
) -> ManagedEnvironment:
    """Make the environment of a backend, unless there is one.

    Args:
        backend: Name of an installed backend that states its packages.
        environments: Folder of all managed environments; made with mode 0700.
        lock: Lock file of an earlier environment, of which exactly the same is made.
        upgrade: Make it anew with the newest packages, though there is one.
        progress: Called with each step, as a short text.

    Returns:
        The environment, with the versions of its packages.

    Raises:
        InstallationFailed: A step failed; the text has the installer's own words.
        PluginUnusable: The backend needs no environment, or others can write to the folder.
    """
    packages = packages_of(backend)
    _make_private(environments)
    _make_private(environments / backend)
    check_private(environments, backend)
    with _alone(environments / backend):
        return _installed(backend, environments, packages, lock, upgrade, progress)


def _installed(
    backend: str,
    environments: Path,
    packages: BackendPackages,
    lock: Path | None,
    upgrade: bool,
    progress: Callable[[str], None],
) -> ManagedEnvironment:
    known = None if upgrade or lock is not None else managed_environment(environments, backend)
    if known is not None and known.requirements == packages.requirements:
        return known
    generation = Path(
        tempfile.mkdtemp(prefix=f"{datetime.now(UTC):%Y%m%dT%H%M%S}-", dir=environments / backend)
    )
    try:
        progress(f"making an environment for {backend} in {generation}")
        interpreter = _made_venv(generation)
        progress(f"installing {lock or ' '.join(packages.requirements)}")
        _install_packages(interpreter, generation, packages.requirements, lock)
        progress(f"importing {', '.join(packages.imports)}")
        _try_imports(interpreter, packages.imports)
        made = ManagedEnvironment(
            backend=backend,
            python=_output(
                [str(interpreter), "-I", "-c", "import platform; print(platform.python_version())"]
            ),
            requirements=packages.requirements,
            packages=_packages(generation),
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_manifest(generation, made)
    except BaseException:
        shutil.rmtree(generation, ignore_errors=True)
        raise
    _put_in_use(environments / backend, generation)
    return made


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait for other processes that install into a folder: each removes what is not in use."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _made_venv(generation: Path) -> Path:
    # pip of this process installs from outside; making one inside takes longer than all else.
    bare = ["--without-pip"] if find_spec("pip") else []
    _run(
        [sys.executable, "-I", "-m", "venv", *bare, str(generation)], "making a virtual environment"
    )
    return generation / "bin" / "python"


def _install_packages(
    interpreter: Path, generation: Path, requirements: Sequence[str], lock: Path | None
) -> None:
    pip = [sys.executable, "-I", "-m", "pip", "--python", str(interpreter)]
    if not find_spec("pip"):
        pip = [str(interpreter), "-I", "-m", "pip"]
    report = generation / "report.json"
    wanted = list(requirements)
    if lock is not None:
        wanted = ["--require-hashes", "--no-deps", "--requirement", str(lock.absolute())]
    _run(
        [*pip, "install", "--quiet", "--prefer-binary", "--report", str(report), *_PIP, *wanted],
        f"installing {lock or ' '.join(requirements)}",
    )
    found = json.loads(report.read_text(encoding="utf-8"))["install"]
    (generation / LOCK).write_text(_lock_text(found), encoding="utf-8")
    report.unlink()


def _lock_text(installed: Sequence[Mapping[str, Any]]) -> str:
    """Return pip's report as a requirements file with versions and digests."""
    lines = []
    for one in installed:
        name, version = one["metadata"]["name"], one["metadata"]["version"]
        digest = one["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        lines.append(f"{name}=={version}" + f" --hash=sha256:{digest}" * bool(digest))
    return "".join(f"{line}\n" for line in sorted(lines, key=str.lower))


def _packages(generation: Path) -> dict[str, str]:
    lines = (generation / LOCK).read_text(encoding="utf-8").splitlines()
    found = (line.partition(" ")[0].partition("==") for line in lines)
    return {name: version for name, _, version in found}


def _try_imports(interpreter: Path, modules: Sequence[str]) -> None:
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    command = [str(interpreter), "-I", "-c", code, *modules]
    _run(command, f"importing {', '.join(modules)}", child_variables())


def _put_in_use(folder: Path, generation: Path) -> None:
    """Switch to a new environment; the last one stays for processes that run in it."""
    current = folder / CURRENT
    last = current.resolve() if current.exists() else None
    draft = folder / f".{CURRENT}.{os.getpid()}"
    draft.unlink(missing_ok=True)
    draft.symlink_to(generation.name)
    draft.replace(current)
    for other in folder.iterdir():
        if other.is_dir() and not other.is_symlink() and other not in (generation, last):
            shutil.rmtree(other, ignore_errors=True)


def _run(command: Sequence[str], step: str, variables: Mapping[str, str] | None = None) -> None:
    """Run a step, with the installer's variables if ``variables`` is None."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_STEP_S,
            env=installer_variables() if variables is None else variables,
            umask=0o077,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InstallationFailed(f"{step} took longer than {_STEP_S:g} s") from None
    except OSError as error:
        raise InstallationFailed(f"{step} failed: {command[0]}: {error.strerror}") from error
    if done.returncode:
        raise InstallationFailed(_explained(step, done.stderr or done.stdout))


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=_STEP_S,
        env=child_variables(),
        check=True,
    )
    return done.stdout.strip()


def _explained(step: str, output: str) -> str:
    r"""Return what went wrong, from what an installer printed.

    >>> _explained("installing x", "WARNING: …\nERROR: No matching distribution found for x\n")
    'installing x failed: No matching distribution found for x'
    """
    if any(sign in output for sign in _UNREACHABLE):
        return (
            f"{step} failed: the package index cannot be reached; install where there is a network, "
            "or name an index that is reachable, with PIP_INDEX_URL or PIP_FIND_LINKS"
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return f"{step} failed: {(errors or lines or ['without a word'])[-1][:500]}"
