"""What hosts and answers of HTTP mean, whichever client sends the request (pure)."""

from __future__ import annotations

from ipaddress import ip_address

__all__ = ["NOT_NOW", "is_loopback", "retry_after_s"]

# The server did not carry the request out, and may do so later (RFC 9110, 8470, 6585).
NOT_NOW = (408, 425, 429)


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine.

    >>> [is_loopback(h) for h in ("localhost", "127.0.0.9", "[::1]", "10.0.0.1", "broker.site")]
    [True, True, True, False, False]
    """
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


def retry_after_s(stated: str | None) -> float | None:
    """Return the header ``Retry-After`` in seconds (RFC 9110, 10.2.3); a date counts as not stated.

    >>> retry_after_s("1.5"), retry_after_s("nan"), retry_after_s(None)
    (1.5, None, None)
    """
    try:
        seconds = float(stated or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None
