"""Where a site's server is, and the token that it accepts; without a client of HTTP."""

from __future__ import annotations

import base64
import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from backends.errors import AccessDenied
from backends.http_rules import is_loopback
from backends.plugins import PluginUnusable
from backends.secret_text import SecretText, without_credentials

__all__ = [
    "FixedToken",
    "StoredToken",
    "Token",
    "TokenSource",
    "checked_url",
    "token_from_options",
]

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A secret that a site accepts. expires_at_s: in seconds since the epoch, if it states that."""

    text: str = field(repr=False)
    expires_at_s: float | None = None

    @classmethod
    def parse(cls, content: str) -> Token:
        """Read a token: as it is, or from a JSON object with ``access_token``.

        The time of expiry is that of a JSON web token (RFC 7519, ``exp``). Raises ``ValueError``.
        """
        text = content.strip()
        if text.startswith("{"):
            stated = json.loads(text)
            text = str(stated.get("access_token") or "")
        if not _TOKEN.fullmatch(text):
            raise ValueError("it holds no token")
        return cls(text=text, expires_at_s=_expiry(text))


class TokenSource(Protocol):
    """Where the token is found at each request."""

    def read(self) -> Token:
        """Return the token that is valid now. Raises `AccessDenied` if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class FixedToken:
    """A token that stays the same as long as the process lives."""

    token: Token

    def read(self) -> Token:
        """Return it."""
        return self.token


class StoredToken:
    """A token in a file, which is read again whenever the file changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._token: Token | None = None

    def read(self) -> Token:
        """See `TokenSource.read`; refuses a file that every user of the machine can read."""
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
            if self._token is None or stamp != self._stamp:
                if stat.S_IMODE(found.st_mode) & 0o007:
                    raise AccessDenied(
                        f"other users can read the token file {self._path} (mode "
                        f"{stat.S_IMODE(found.st_mode):04o}); close it with 'chmod 600 {self._path}'"
                    )
                self._token, self._stamp = Token.parse(self._path.read_text("utf-8-sig")), stamp
        except OSError as error:
            raise AccessDenied(
                f"the token file {self._path} cannot be read: {error.strerror}; store the site's "
                "token in it"
            ) from None
        except ValueError:  # its text would show the token
            raise AccessDenied(
                f"the token file {self._path} is not readable as a token; it should hold the token "
                'alone, or JSON with "access_token"'
            ) from None
        return self._token


def token_from_options(options: Mapping[str, Any], backend: str) -> TokenSource:
    """Return where the option ``token`` is found. Raises `PluginUnusable` if there is none."""
    text = options.get("token")
    if isinstance(text, SecretText):
        return StoredToken(Path(text.path))
    try:
        return FixedToken(Token.parse(text or ""))
    except (AttributeError, ValueError):
        raise PluginUnusable(
            f"backend {backend!r} needs the site's token: token = {{ file = 'PATH' }}, which is read "
            "again when it changes, or token = { env = 'NAME' }"
        ) from None


def checked_url(options: Mapping[str, Any], backend: str) -> str:
    """Return the option ``url``. Raises `PluginUnusable`, also for plain HTTP to other machines."""
    url = options.get("url")
    if not isinstance(url, str) or not url:
        raise PluginUnusable(f"backend {backend!r} needs url = 'https://HOST', the site's server")
    try:
        parts = urlsplit(url)
        host, is_usable = parts.hostname, bool(parts.port != 0 and not parts.username)
    except ValueError:  # brackets without an address, or a port that is no number
        host, is_usable = None, False
    if not is_usable or not host or parts.scheme not in ("http", "https"):
        raise PluginUnusable(
            f"option url = {without_credentials(url)!r}; give one such as 'https://HOST'"
        )
    if parts.scheme == "http" and not is_loopback(host):
        raise PluginUnusable(
            f"option url = {url!r} would send the token unencrypted over a network; give an "
            "https:// address"
        )
    return url.rstrip("/")


def _expiry(token: str) -> float | None:
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return float(claims["exp"])
    except (ValueError, KeyError, TypeError):
        return None
