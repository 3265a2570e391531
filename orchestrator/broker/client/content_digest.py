"""The checksum that bodies carry over HTTP, written as ``Content-Digest`` (RFC 9530)."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256

__all__ = ["content_digest", "digest_text"]


def content_digest(data: bytes) -> str:
    """Return the header of some bytes.

    >>> content_digest(b"")
    'sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:'
    """
    return digest_text(sha256(data).digest())


def digest_text(digest: bytes) -> str:
    """Return the header for a SHA-256 that was computed piece by piece."""
    return f"sha-256=:{b64encode(digest).decode()}:"
