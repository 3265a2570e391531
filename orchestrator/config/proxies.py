"""Proxy variables of the environment: which requests go through a proxy, and which never do."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from urllib.parse import urlsplit

from orchestrator.config.environment import hand_down, process_environment

__all__ = ["bypass_for_loopback", "drop_unusable", "proxy_variable"]

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SOCKS = ("socks5", "socks5h")


def bypass_for_loopback() -> None:
    """Add this machine's own addresses to ``no_proxy``, here and in processes started from here."""
    known = process_environment()
    for name, other in (("no_proxy", "NO_PROXY"), ("NO_PROXY", "no_proxy")):
        given = known.get(name) or known.get(other, "")
        hosts = [host.strip() for host in given.split(",") if host.strip()]
        # `*` means every host, and to most programs only where it stands alone.
        missing = [] if "*" in hosts else [host for host in _LOOPBACK if host not in hosts]
        hand_down({name: ",".join([*hosts, *missing])})


def drop_unusable() -> list[str]:
    """Empty the proxy variables that HTTPX refuses at every client; return a sentence for each."""
    warnings = []
    for name, url in list(_variables()):
        fault = _fault(url)
        if fault is not None:
            hand_down({name: ""})
            warnings.append(f"{name} is ignored: {fault}")
    return warnings


def proxy_variable(scheme: str) -> str | None:
    """Return the name of the variable that names a proxy for a URL's scheme, None without one."""
    known = {name.lower(): name for name, _ in _variables()}
    return known.get(f"{scheme}_proxy") or known.get("all_proxy")


def _variables() -> Iterator[tuple[str, str]]:
    wanted = ("http_proxy", "https_proxy", "all_proxy")
    known = process_environment()
    return ((name, url) for name, url in known.items() if url and name.lower() in wanted)


def _fault(url: str) -> str | None:
    """Say why HTTPX takes no proxy of this URL, without repeating the password in it."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        _ = parts.port
    except ValueError:  # its text may hold a password
        return "it is not a valid URL; use http://HOST:PORT"
    if parts.scheme in _SOCKS and importlib.util.find_spec("socksio") is None:
        return f"{parts.scheme}:// needs a package; install it with: pip install 'httpx[socks]'"
    if parts.scheme not in ("http", "https", *_SOCKS):
        return (
            f"{parts.scheme}:// is not supported; use http://, https://, socks5:// or socks5h://, "
            "or unset the variable"
        )
    return None
