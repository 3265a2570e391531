"""The error of every part of the configuration."""

from __future__ import annotations

__all__ = ["ConfigError"]


class ConfigError(ValueError):
    """The configuration cannot be used; the message names the file, the value and the remedy."""
