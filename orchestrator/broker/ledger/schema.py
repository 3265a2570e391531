"""Makes the tables of a new ledger, and brings those of an old one up to this version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from orchestrator.broker.ledger.place import (
    LedgerError,
    Place,
    copy_file,
    database_words,
    free_name,
    is_damage,
    newest_backup,
)
from orchestrator.broker.ledger.tables import SCHEMA_VERSION, meta, metadata

__all__ = ["alone", "open_tables"]

_MIGRATIONS = Path(__file__).with_name("migrations")
_LOCK = 0x68706371  # "hpcq": whoever makes or changes tables holds this lock of PostgreSQL's


def open_tables(place: Place, engine: sa.Engine) -> None:
    """Make the tables if there are none, and upgrade those of an older version.

    A file is copied before it is upgraded. Raises `LedgerError` for tables of something else or
    of a newer version, and for a file that is damaged or cannot be written.
    """
    try:
        if place.path is not None:
            place.path.parent.mkdir(parents=True, exist_ok=True)
            _refuse_emptied(place, place.path)
            # Results are the user's own; SQLite gives its -wal and -shm files the same mode.
            place.path.touch(mode=0o600)
        _prepare(place, engine)
    except (sa.exc.DBAPIError, OSError) as error:
        words = database_words(error)
        if place.path is not None and is_damage(words):
            advice = place.after_damage()
        else:
            advice = f"It was left as it is; {place.remedy}."
        raise LedgerError(f"ledger {place.name} cannot be opened: {words}. {advice}") from error


def _refuse_emptied(place: Place, path: Path) -> None:
    """An empty file is a new ledger, but not where there are copies of an earlier one."""
    if path.exists() and path.stat().st_size == 0 and newest_backup(path) is not None:
        raise LedgerError(f"ledger {place.name} is empty. {place.after_damage()}")


def _prepare(place: Place, engine: sa.Engine) -> None:
    with engine.connect() as connection:
        version = _version(place, connection)
    if version is None:
        with alone(engine) as connection:
            _create(place, connection)
            version = _version(place, connection)
    if version is None or not version.isdigit():
        raise LedgerError(f"{place.name} is no hpcqc ledger: it states no schema version")
    if int(version) > SCHEMA_VERSION:
        raise LedgerError(
            f"ledger {place.name} has schema {version}, written by a newer hpcqc; this one "
            f"reads up to {SCHEMA_VERSION}. Upgrade hpcqc, or name another state folder with HPCQC_STATE_DIR."
        )
    if int(version) < SCHEMA_VERSION:
        with alone(engine) as connection:
            _upgrade(place, connection)


@contextmanager
def alone(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Begin a transaction, committed at the end, beside which nobody else changes tables."""
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        yield connection


def _version(place: Place, connection: sa.Connection) -> str | None:
    """Return the version that a ledger states, "" for none, and None if it has no tables yet."""
    # One look: between two of them another process may make the tables.
    there = set(sa.inspect(connection).get_table_names())
    if meta.name in there:
        query = sa.select(meta.c.value).where(meta.c.key == "schema_version")
        return connection.execute(query).scalar() or ""
    # A PostgreSQL database may hold other tables, as long as they do not have our names.
    foreign = there if place.path is not None else there & set(metadata.tables)
    if foreign:
        raise LedgerError(
            f"{place.name} is no hpcqc ledger: it holds tables of something else "
            f"({', '.join(sorted(foreign)[:3])}). It was left as it is; {place.remedy}."
        )
    return None


def _create(place: Place, connection: sa.Connection) -> None:
    if _version(place, connection) is None:
        metadata.create_all(connection)
        row = {"key": "schema_version", "value": str(SCHEMA_VERSION)}
        connection.execute(meta.insert(), row)


def _upgrade(place: Place, connection: sa.Connection) -> None:
    version = int(_version(place, connection) or 0)
    if version >= SCHEMA_VERSION:  # another process was quicker
        return
    if place.path is not None:
        copy_file(place.path, free_name(place.path, f"schema-{version}"))
    from alembic import command  # here, because a ledger of this version needs none of it
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.stamp(config, f"{version:04d}", purge=True)
    command.upgrade(config, "head")
