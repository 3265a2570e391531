"""What projects were charged in a month."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.application.service import open_service
from orchestrator.config.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.broker.core.statement import StatementLine

__all__ = ["check_project", "statement"]

_MONTH = re.compile(r"2[0-9]{3}-(0[1-9]|1[0-2])")


def statement(
    project: str | None = None, month: str | None = None, *, site: Path | str | None = None
) -> list[StatementLine]:
    """Return what projects were charged in a month, by QPU and unit.

    Args:
        project: This project alone; None for all that the user may see.
        month: Year and month in UTC, such as ``"2026-11"``; None for the present one.
        site: Path of a site file; None for the one that the usual lookup finds.

    Returns:
        A line for each project, QPU and unit, sorted by them.

    Raises:
        ConfigError: The site has no broker service, or there is no such project or month.
        BrokerUnreachable: The service does not answer.
        BrokerRefused: The service refuses, for want of a valid token, for example.
    """
    if month is not None and not _MONTH.fullmatch(month):
        raise ConfigError(f"month {month!r}; give a year and a month, such as 2026-11")
    with closing(open_service(None if site is None else Path(site).expanduser())) as broker:
        if project is not None:
            check_project(project, (use.project for use in broker.projects()))
        return broker.statement(project, month)


def check_project(project: str, known: Iterable[str]) -> None:
    """Raise ``ConfigError`` for a project that is not among the known ones."""
    names = list(known)
    if project not in names:
        raise ConfigError(
            f"no project {project!r} that this user may see; there are: "
            f"{', '.join(names) or 'none'}"
        )
