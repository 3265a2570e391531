"""Secrets of a site file, as backends get them, and texts to show, which must hold none."""

from __future__ import annotations

import re
from typing import Self

__all__ = ["SecretText", "without_credentials"]

_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s]*@")


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


def without_credentials(text: str) -> str:
    """Return a text with the user names and passwords of URLs in it hidden (RFC 3986, 3.2.1).

    >>> without_credentials("no answer from https://ada:s3cret@host/api")
    'no answer from https://(hidden)@host/api'
    """
    return _CREDENTIALS.sub("(hidden)@", text)
