"""A secret of a site file, as backends get it."""

from __future__ import annotations

from typing import Self

__all__ = ["SecretText"]


class SecretText(str):
    """A secret that was read from a file, which may hold a newer one later.

    >>> SecretText.read_from("token", "s3cret").path
    'token'
    """

    __slots__ = ("path",)
    path: str

    @classmethod
    def read_from(cls, path: str, text: str) -> Self:
        """Return a secret with the path of its file."""
        made = cls(text)
        made.path = path
        return made
