"""``hpcqc backends``: what can drive a QPU, and the environments of vendors' packages."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from orchestrator.cli.options import Json, path
from orchestrator.cli.output import print_json, say, tabulate

__all__ = ["backends_install", "backends_list"]


def backends_list(as_json: Json = False) -> None:
    """List the installed backends, ours and other packages'."""
    from orchestrator.application.backends import installed_backends

    known = installed_backends()
    if as_json:
        print_json([asdict(entry) for entry in known])
        return
    columns = ("name", "object", "package", "version", "environment")
    rows = [
        [
            entry.name,
            entry.object,
            entry.package,
            entry.version,
            entry.fault or (f"made {entry.environment.made_at}" if entry.environment else None),
        ]
        for entry in known
    ]
    tabulate(columns, rows)


def backends_install(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Backends.")],
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Make environments anew with the newest packages.")
    ] = False,
    lock: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Make exactly the environment of this lock file."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the environments that `environment = "managed"` names, with vendors' packages."""
    from orchestrator.application.backends import install_backend

    if lock is not None and len(names) != 1:
        raise typer.BadParameter("a lock file is of one backend; name one", param_hint="--lock")
    made = []
    for name in names:
        environment = install_backend(
            name,
            upgrade=upgrade,
            lock=None if lock is None else path(lock),
            progress=(lambda _text: None) if as_json else (lambda text: say(f"{text} …")),
        )
        made.append(asdict(environment))
        if not as_json:
            count = len(environment.packages)
            say(f"{name} is ready: {count} packages, Python {environment.python}")
    if as_json:
        print_json(made)
