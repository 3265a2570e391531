"""Lets a QPU's simulator load beside this process, before this process loads anything heavy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["load_ahead"]


def load_ahead(site_file: Path | None, overrides: Sequence[str], qpu: str | None) -> None:
    """Begin to load what the backend of a QPU needs in processes of its own.

    Raises ``ConfigError`` as ``load_site`` does, and where the site has no such QPU. With a
    broker service, the QPUs are loaded there.
    """
    from backends import registry
    from orchestrator.config.loading import load_site

    site = load_site(site_file, overrides)
    settings = site.qpu(qpu)
    if site.broker.url is None:
        registry.preload(settings.backend)
