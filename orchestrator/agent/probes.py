"""Asking a child whether it is ready, and whether it still is."""

from __future__ import annotations

import http.client
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.agent.children import BeatProbe, HttpProbe, Probe

__all__ = ["answers"]


def answers(probe: Probe, timeout_s: float, since: float = 0.0) -> bool:
    """Whether the child is there; blocks up to ``timeout_s``.

    since: seconds since the epoch; a beat from before that was another process's.
    """
    if isinstance(probe, BeatProbe):
        return _beats(probe, since)
    return _serves(probe, timeout_s)


def _serves(probe: HttpProbe, timeout_s: float) -> bool:
    if probe.socket is not None:
        return _serves_on(probe.socket, probe.url, timeout_s)
    # A proxy from the environment has no business with an address on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(probe.url, timeout=timeout_s) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _serves_on(path: Path, url: str, timeout_s: float) -> bool:
    parts = urlsplit(url)
    asking = http.client.HTTPConnection(parts.netloc, timeout=timeout_s)
    try:
        asking.sock = socket.socket(socket.AF_UNIX)  # so that it does not connect by itself
        asking.sock.settimeout(timeout_s)
        asking.sock.connect(str(path))
        asking.request("GET", parts.path)
        return asking.getresponse().status == 200
    except (http.client.HTTPException, OSError):
        return False
    finally:
        asking.close()


def _beats(probe: BeatProbe, since: float) -> bool:
    try:
        beaten = probe.path.stat().st_mtime
    except OSError:
        return False
    return beaten >= since and time.time() - beaten <= probe.stale_s
