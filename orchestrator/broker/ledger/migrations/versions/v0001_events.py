"""Version 1: events, and the payloads and results that belong to them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ["down_revision", "revision", "upgrade"]

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    """Make the tables of the first ledgers."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    meta = op.create_table(
        "meta",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("seq", number, primary_key=True, autoincrement=True),
        sa.Column("scope", sa.String, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("job", sa.String),
        sa.Column("tag", sa.String),
        sa.Column("body", sa.String, nullable=False),
    )
    if op.get_context().dialect.name == "sqlite":
        op.create_index("ix_events_scope", "events", ["scope"])
    else:
        op.create_index("ix_events_scope_seq", "events", ["scope", "seq"])
    submitted = sa.text("kind = 'job-submitted'")
    op.create_index(
        "ix_events_submitted",
        "events",
        ["job"],
        sqlite_where=submitted,
        postgresql_where=submitted,
        postgresql_ops={"job": "text_pattern_ops"},
    )
    for name, key in (("payloads", "digest"), ("results", "tag")):
        op.create_table(
            name,
            sa.Column(key, sa.String, primary_key=True),
            sa.Column("data", sa.LargeBinary, nullable=False),
        )
    op.bulk_insert(meta, [{"key": "schema_version", "value": "1"}])
