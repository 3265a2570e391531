"""What Alembic runs: the revisions, on a connection that `tables` has begun a transaction on."""

from __future__ import annotations

from alembic import context

__all__: list[str] = []


def _run() -> None:
    context.configure(connection=context.config.attributes["connection"])
    with context.begin_transaction():
        context.run_migrations()


if __name__ == "env_py":  # the name under which Alembic loads this file
    _run()
