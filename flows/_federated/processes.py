"""The sites of a federation on this machine: their files, certificates and processes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backends.links import Link
from flows._inputs import InputError
from orchestrator.config.environment import process_environment
from orchestrator.links.certificates import certify

__all__ = ["COORDINATOR", "LocalSite", "local_sites"]

COORDINATOR = "coordinator"
_DAYS = 30
_END_S = 20.0
_OF_QPU = (
    "backend",
    "accepts",
    "jurisdictions",
)  # in its table; the rest are its backend's options
_LOOK_S = 0.05


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class LocalSite:
    """A site that runs as a process here."""

    name: str
    link: Link  # of the coordinator to it
    process: subprocess.Popen[bytes]


@contextmanager
def local_sites(
    folder: Path,
    data: Mapping[str, str],
    *,
    qpu: Mapping[str, Any],
    least: int,
    noise_seed: int | None,
    labels: Sequence[str] = (),
) -> Iterator[list[LocalSite]]:
    """Start a process for each site, with a site file, a state folder and a port of its own.

    Args:
        folder: Which nobody else can enter; certificates and ports that are in it are used again.
        data: By site, the text of its file of patients.
        qpu: The table of each site's QPU.
        least: Of how many sites a sum is at least.
        noise_seed: Of the noise of privacy; None for what nobody can guess.
        labels: Of the data, at every site.

    Yields:
        The sites, once each of them answers at its port; they end with the block.

    Raises:
        InputError: One of them ended; its own words say why.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    certificates = folder / "certificates"
    names = [COORDINATOR, *data]
    if not all((certificates / f"{name}.pem").exists() for name in names):
        shutil.rmtree(certificates, ignore_errors=True)  # of a process that was killed as it wrote
        certify(certificates, names, days=_DAYS, now=datetime.now(UTC))
    with ExitStack() as stack:
        processes = {}
        for name, text in data.items():
            home = _home(folder, name, text, qpu, labels)
            processes[name] = _started(home, name, list(data), least, noise_seed)
            stack.callback(_end, processes[name])
        yield [
            LocalSite(name=name, link=_link(folder, name, _port(folder / name, one)), process=one)
            for name, one in processes.items()
        ]


def _home(
    folder: Path, name: str, text: str, qpu: Mapping[str, Any], labels: Sequence[str]
) -> Path:
    """Write a site's file and its patients to a folder of its own."""
    home = folder / name
    home.mkdir(exist_ok=True, mode=0o700)
    certificates = folder / "certificates"
    lines = ["[site]", f"labels = {_toml(list(labels))}", "[qpu.own]"]
    lines += [f"{key} = {_toml(value)}" for key, value in qpu.items() if key in _OF_QPU]
    lines.append("[qpu.own.options]")
    lines += [f"{key} = {_toml(value)}" for key, value in qpu.items() if key not in _OF_QPU]
    lines += [f"[link.{name}]", f"listen = {_toml(f'127.0.0.1:{_known_port(home)}')}"]
    for role, file in (
        ("certificate", f"{name}.pem"),
        ("key", f"{name}.key"),
        ("authority", "authority.pem"),
    ):
        lines.append(f"{role} = {_toml(str(certificates / file))}")
    lines.append(f"peers = [{_toml(COORDINATOR)}]")
    for path, content in ((home / "site.toml", "\n".join(lines)), (home / "patients.csv", text)):
        path.touch(mode=0o600)
        path.write_text(content + "\n" * (not content.endswith("\n")), encoding="utf-8")
    return home


def _known_port(home: Path) -> int:
    """Return the port of an earlier attempt, if it is free: stages that are done know it."""
    try:
        port = int((home / "port").read_text(encoding="ascii"))
        with socket.create_server(("127.0.0.1", port)):
            return port
    except (OSError, ValueError):
        return 0


def _started(
    home: Path, name: str, members: Sequence[str], least: int, noise_seed: int | None
) -> subprocess.Popen[bytes]:
    arguments = ["--site", "site.toml", "--link", name, "--data", "patients.csv", "--with-parent"]
    arguments += ["--members", ",".join(members), "--least", str(least)]
    if noise_seed is not None:
        arguments += ["--noise-seed", str(noise_seed)]
    shutil.rmtree(home / "state", ignore_errors=True)  # a site's runs are not continued
    kept = {k: v for k, v in process_environment().items() if not k.startswith("HPCQC_")}
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with ExitStack() as stack:
        log, errors = (stack.enter_context((home / one).open("w")) for one in ("log", "errors"))
        return subprocess.Popen(
            [sys.executable, "-m", "flows._federated.site", *arguments],
            cwd=home,
            env={
                **kept,
                "PYTHONPATH": path,
                "HPCQC_STATE_DIR": str(home / "state"),
                "OMP_NUM_THREADS": "1",
            },
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=errors,
        )


def _port(home: Path, process: subprocess.Popen[bytes]) -> int:
    """Return the port of a site once it is ready. Raises `InputError` if it ends before."""
    while process.poll() is None:
        for line in (home / "log").read_text(encoding="utf-8").splitlines():
            noted = json.loads(line)
            if noted["event"] == "ready":
                (home / "port").write_text(str(noted["port"]), encoding="ascii")
                return int(noted["port"])
        time.sleep(_LOOK_S)
    words = (home / "errors").read_text(encoding="utf-8").strip().splitlines()
    stated = [line.removeprefix("Error: ") for line in words if line.startswith("Error: ")]
    said = " ".join(stated or words[-3:])
    raise InputError(
        f"site {home.name!r} ended with status {process.returncode}: {said or 'silently'}"
    )


def _link(folder: Path, name: str, port: int) -> Link:
    certificates = folder / "certificates"
    return Link(
        name=name,
        address=f"127.0.0.1:{port}",
        certificate=certificates / f"{COORDINATOR}.pem",
        key=certificates / f"{COORDINATOR}.key",
        authority=certificates / "authority.pem",
        peers=(name,),
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _toml(value: Any) -> str:
    """Return what an option may be as TOML, whose strings and lists are those of JSON."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(one)}" for key, one in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
