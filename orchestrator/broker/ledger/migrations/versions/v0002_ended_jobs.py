"""Version 2: snapshots of open work, and a row for each job that has ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ["down_revision", "revision", "upgrade"]

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the tables that spare readers the events of what is over."""
    op.create_table(
        "snapshots",
        sa.Column("scope", sa.String, primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("state", sa.String, nullable=False),
    )
    op.create_table(
        "ended_jobs",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("scope", sa.String, primary_key=True),
        sa.Column("run", sa.String, nullable=False),
        sa.Column("project", sa.String, nullable=False),
        sa.Column("user", sa.String, nullable=False),
        sa.Column("qpu", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("submitted_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float, nullable=False),
        sa.Column("record", sa.String, nullable=False),
    )
    op.create_index("ix_ended_jobs_submitted", "ended_jobs", ["submitted_at"])
    op.create_index("ix_ended_jobs_ended", "ended_jobs", ["ended_at"])
    op.create_index("ix_ended_jobs_run", "ended_jobs", ["run", "submitted_at"])
    op.create_index("ix_ended_jobs_project", "ended_jobs", ["project", "submitted_at"])
    if op.get_context().dialect.name == "postgresql":
        patterns = {"id": "text_pattern_ops"}
        op.create_index("ix_ended_jobs_id", "ended_jobs", ["id"], postgresql_ops=patterns)
    op.execute("UPDATE meta SET value = '2' WHERE key = 'schema_version'")
