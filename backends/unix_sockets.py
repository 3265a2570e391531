"""Unix sockets by path: listening on one, and whether the process behind one can be trusted."""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "LONGEST_PATH",
    "UNIX",
    "UnixSocketError",
    "check_listener",
    "check_path",
    "listen_at",
    "peer_uid",
]

UNIX = "unix:"  # before a path, as a URL
LONGEST_PATH = 107  # sun_path of unix(7), less the zero at its end
_CREDENTIALS = struct.Struct("3i")  # struct ucred of unix(7)


class UnixSocketError(ValueError):
    """A Unix socket cannot be used; the message says why, and what to do."""


def check_path(path: Path) -> None:
    """Raise `UnixSocketError` for a path that is too long for a Unix socket."""
    size = len(os.fsencode(path))
    if size > LONGEST_PATH:
        raise UnixSocketError(
            f"{path} has {size} bytes, and the path of a Unix socket has at most {LONGEST_PATH}; "
            "give a shorter path, or name a shorter state folder with HPCQC_STATE_DIR"
        )


def peer_uid(connection: socket.socket) -> int:
    """Return the user at the other end: who connected, or who began to listen."""
    read = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _pid, uid, _gid = _CREDENTIALS.unpack(read)
    return int(uid)


def check_listener(connection: socket.socket, path: str) -> None:
    """Raise `UnixSocketError` unless root, this user or the owner of a safe folder listens."""
    # Safe: nobody but root and that user can put another socket, or folder, in its place.
    uid = peer_uid(connection)
    if uid in (0, os.geteuid()):
        return
    for place in (Path(os.path.abspath(path)), Path(os.path.realpath(path))):  # noqa: PTH100
        for folder in place.parents:
            found = folder.stat()
            if found.st_mode & 0o022 or found.st_uid not in (0, os.geteuid(), uid):
                raise UnixSocketError(
                    f"user id {uid} listens on {path}, and others than its owner can write "
                    f"{folder}, so any of them may have put it there; nothing was sent. Give the path of a "
                    "socket in a folder that only its owner can write, such as /run/hpcqc"
                )
        owner = place.parent.stat().st_uid
        if owner not in (0, uid):
            raise UnixSocketError(
                f"user id {uid} listens on {path}, whose folder belongs to user id {owner}; "
                "nothing was sent. Ask who runs the broker there"
            )


def listen_at(path: Path, *, mode: int, backlog: int) -> socket.socket:
    """Listen on a path, replacing a dead process's socket, or raise `UnixSocketError`."""
    # ``mode`` decides who may connect; only the owner can write to folders that are made here.
    check_path(path)
    opened = socket.socket(socket.AF_UNIX)
    try:
        with _umask(0o022 if mode & 0o006 else 0o077):
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            if not stat.S_ISSOCK(path.stat().st_mode):
                raise UnixSocketError(f"{path} is in the way and is not a socket; remove it")
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise UnixSocketError(f"another process listens on {path}; end it first")
            path.unlink()
        with _umask(0o777 & ~mode):
            opened.bind(str(path))
        opened.listen(backlog)
    except OSError as error:
        opened.close()
        raise UnixSocketError(f"cannot listen on {path}: {error.strerror or error}") from error
    except UnixSocketError:
        opened.close()
        raise
    return opened


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
