"""Sessions of requests, as vendors' clients use them, towards servers that may be faulty."""

from __future__ import annotations

import time
from functools import partial
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError

from backends.http_rules import is_loopback

__all__ = ["restrain"]

_WHOLE_ANSWER_S = 600.0
_PIECE_BYTES = 1 << 14  # which compression makes a thousand times as large


def restrain(session: requests.Session, url: str, *, largest_bytes: int) -> None:
    """Have a session follow no redirections, and read no more of an answer than it may hold.

    Where tokens and payloads go is the site file's to say: requests takes headers that are no
    ``Authorization``, and bodies, along to any host that a server names. A redirection raises
    ``requests.TooManyRedirects``, other excess another ``requests.RequestException``.

    Args:
        session: The session; its hooks and settings are changed.
        url: Of the server. Proxies of the environment serve other machines only.
        largest_bytes: Of an answer, unpacked.
    """
    session.max_redirects = 0
    session.hooks["response"].insert(0, partial(_bounded, largest_bytes))
    session.trust_env = not is_loopback(urlsplit(url).hostname or "")


def _bounded(
    largest_bytes: int, response: requests.Response, *_: Any, **__: Any
) -> requests.Response:
    deadline = time.monotonic() + _WHOLE_ANSWER_S
    content = bytearray()
    try:
        while piece := response.raw.read1(_PIECE_BYTES, decode_content=True):
            content += piece
            if len(content) > largest_bytes:
                raise requests.exceptions.ContentDecodingError(
                    f"it answers with more than {largest_bytes} bytes"
                )
            if time.monotonic() > deadline:
                raise requests.ReadTimeout(f"its answer has not ended after {_WHOLE_ANSWER_S:g} s")
    except (HTTPError, OSError) as error:
        response.close()
        if isinstance(error, requests.RequestException):
            raise
        raise requests.exceptions.ChunkedEncodingError(str(error)) from error
    response.raw = BytesIO(content)
    return response
