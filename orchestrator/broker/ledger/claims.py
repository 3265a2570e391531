"""A claim to serve a whole ledger: who holds it, and that nobody else does."""

from __future__ import annotations

import fcntl
import hashlib
import json
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from orchestrator.broker.ledger.errors import LedgerError, LedgerHeld
from orchestrator.broker.ledger.tables import meta

__all__ = ["claim_file", "claim_on_server", "held_error", "note_holder"]

_HOLDER = "service_holder"


def claim_file(path: Path, holder: str) -> IO[str]:
    """Lock the file beside a ledger; the lock goes with the process, or when it is closed.

    Raises `LedgerHeld` with what the other holder wrote about itself, `LedgerError` if there
    can be no such file.
    """
    lock_path = path.with_name(f"{path.name}.lock")
    try:
        lock = lock_path.open("a+", encoding="utf-8")
    except OSError as error:
        raise LedgerError(f"ledger {path} cannot be claimed: {error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        held_by = lock.read().strip()
        lock.close()
        raise held_error(str(path), held_by) from error
    lock.truncate(0)
    lock.write(holder)
    lock.flush()
    return lock


def claim_on_server(connection: sa.Connection) -> str | None:
    """Take the advisory lock of this database's ledger, held as long as the connection.

    Return None once it is ours, or what its holder wrote about itself.
    """
    with connection.begin():
        schema = connection.exec_driver_sql("SELECT current_schema()").scalar()
        taken = connection.execute(sa.select(sa.func.pg_try_advisory_lock(_key(schema)))).scalar()
        if taken:
            return None
        query = sa.select(meta.c.value).where(meta.c.key == _HOLDER)
        written = connection.execute(query).scalar()
    return str(json.loads(written)) if written else ""


def note_holder(connection: sa.Connection, holder: str) -> None:
    """Write who holds the lock, for those who ask for it in vain."""
    with connection.begin():
        connection.execute(meta.delete().where(meta.c.key == _HOLDER))
        connection.execute(meta.insert(), {"key": _HOLDER, "value": json.dumps(holder)})


def held_error(name: str, holder: str) -> LedgerHeld:
    """Return the error that says who serves the ledger."""
    return LedgerHeld(
        f"ledger {name} is served by another broker ({holder or 'it has not said which'}); "
        "use that one, or end it first"
    )


def _key(schema: Any) -> int:
    """Return a number of PostgreSQL's advisory locks; these are told apart by database."""
    digest = hashlib.blake2b(f"hpcqc ledger {schema}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
