"""The user of this process, and files and folders that no other user of the machine can read."""

from __future__ import annotations

import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path

from orchestrator.config.errors import ConfigError

__all__ = ["close_to_others", "login_name", "write_private"]


def login_name() -> str:
    """Return the name of the user of this process, whatever its environment says."""
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container without the site's users
        return str(uid)


def close_to_others(folder: Path) -> None:
    """Make a folder that its owner alone can enter; close one that others can.

    Raises `ConfigError` for a folder that is open to others and not this user's to close, as
    ``/tmp`` is, for one of another user, also where a link of another user leads, and for one that
    others can replace because all users can write a folder above it that is not sticky, or is and
    belongs to one of them, who may rename what is in it. Where a group can write a folder above, as those of projects are, what a member puts in the place of
    this folder belongs to that member. A folder that cannot be made is no error here.
    """
    _check_place(folder)
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        found, link = folder.stat(), folder.lstat()
    except OSError:
        return
    mode = stat.S_IMODE(found.st_mode)
    _check_owner(folder, found.st_uid, link.st_uid)
    if not mode & 0o077:
        return
    try:
        if mode & stat.S_ISVTX:
            raise PermissionError
        folder.chmod(0o700)
    except OSError:
        raise ConfigError(
            f"other users can enter the state folder {folder} (mode {mode:04o}), and it is not "
            "yours to close; name a folder of your own with HPCQC_STATE_DIR"
        ) from None


def _check_owner(folder: Path, owner: int, link_owner: int) -> None:
    """Refuse a folder of another user, who could have this one write over other files by links."""
    own = os.geteuid()
    if owner not in (own, 0) or link_owner not in (own, 0):
        what, user = ("", owner) if owner not in (own, 0) else ("the link ", link_owner)
        raise ConfigError(
            f"{what}{folder} belongs to user id {user}, and the state folder of user id {own} must "
            "be that user's own; work as its owner, or name another with HPCQC_STATE_DIR"
        )


def _check_place(folder: Path) -> None:
    for place in (Path(os.path.abspath(folder)), Path(os.path.realpath(folder))):  # noqa: PTH100
        for above in place.parents:
            try:
                found = above.stat()
            except OSError:  # to be made, closed
                continue
            mode = stat.S_IMODE(found.st_mode)
            if mode & stat.S_IWOTH and mode & stat.S_ISVTX:
                if found.st_uid in (os.geteuid(), 0):
                    continue
                raise ConfigError(
                    f"all users can write the folder {above} (mode {mode:04o}), and user id "
                    f"{found.st_uid}, to whom it belongs, can put another folder in the place of the "
                    f"state folder {folder}; name another with HPCQC_STATE_DIR"
                )
            if mode & stat.S_IWOTH:
                raise ConfigError(
                    f"all users can write the folder {above} (mode {mode:04o}), so any of them can "
                    f"put a folder of theirs in the place of the state folder {folder}; close it "
                    f"with 'chmod o-w {above}', or name another with HPCQC_STATE_DIR"
                )


def write_private(path: Path, text: str) -> None:
    """Replace a file, at once and as a whole, by one that its owner alone can read."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    draft.replace(path)
