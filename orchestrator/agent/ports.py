"""Listening sockets of this machine, which the supervisor keeps open for as long as it lives."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from pathlib import Path

from orchestrator.agent.folder import AgentError
from orchestrator.unix_sockets import UnixSocketError, listen_at

__all__ = ["HOST", "Listening", "free_port", "listen", "listen_unix"]

HOST = "127.0.0.1"
_BACKLOG = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """A socket that already listens. Clients that come while its child is away wait in it."""

    socket: socket.socket

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.socket.getsockname()[1])

    @property
    def descriptor(self) -> int:
        """The number under which a child gets it."""
        return self.socket.fileno()

    def close(self) -> None:
        """Close it, and remove the file of a Unix socket."""
        name = self.socket.getsockname()
        self.socket.close()
        if isinstance(name, str):
            Path(name).unlink(missing_ok=True)


def listen(wanted: int, preferred: int, option: str) -> Listening:
    """Listen on the port that is wanted; without a wish on the preferred one, else any free one.

    wanted: 0 without a wish. preferred: that of last time, so that bookmarks stay right, or 0.
    Raises `AgentError` naming the port and the option if the wanted one cannot be had.
    """
    for port in dict.fromkeys((wanted,) if wanted else (preferred, 0)):
        try:
            made = socket.create_server((HOST, port), backlog=_BACKLOG)
        except OSError as error:
            if wanted:
                raise AgentError(_sentence(port, option, error)) from error
            continue
        return Listening(socket=made)
    raise AgentError(f"no free port on {HOST}; end something that listens and try again")


def listen_unix(path: Path) -> Listening:
    """Listen on a Unix socket that only this user may connect to. Raises `AgentError`."""
    try:
        return Listening(socket=listen_at(path, mode=0o600, backlog=_BACKLOG))
    except UnixSocketError as error:
        raise AgentError(str(error)) from error


def free_port(wanted: int, preferred: int, option: str) -> int:
    """Return a port that a child may listen on by itself; as `listen`, but nothing holds it."""
    held = listen(wanted, preferred, option)
    port = held.port
    held.socket.close()
    return port


def _sentence(port: int, option: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {HOST} is taken by another program; give another one with {option}, "
            f"or leave {option} out and a free one is chosen"
        )
    return f"cannot listen on port {port} of {HOST}: {error.strerror}; give another {option}"
