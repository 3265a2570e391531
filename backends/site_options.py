"""Options that a site file may state directly in the table of any QPU."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SITE_OPTIONS", "SiteOption"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteOption:
    """An option of backends with its own key in ``[qpu.NAME]``; a number is finite and at least 0.

    names_file: text with a slash or suffix ``.toml`` is a path relative to the site file.
    """

    name: str
    kind: type[str] | type[float]
    description: str
    names_file: bool = False


SITE_OPTIONS = (
    SiteOption(
        name="profile",
        kind=str,
        description="device profile: a shipped one's name, or the path of a TOML file",
        names_file=True,
    ),
    SiteOption(
        name="time_scale",
        kind=float,
        description="speed of a profile's clock: 0 never waits, 1 is real time",
    ),
)
