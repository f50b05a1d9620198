"""Alembic, run from code; see `cloud.stores.postgres.migrate`, which loads it late."""

from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


def upgrade(connection: Connection, folder: Path) -> None:
    """Run the migrations of a folder that this database has not seen, in its transaction."""
    script = ScriptDirectory(str(folder), version_locations=[str(folder)])

    def missing(revision: Any, _: Any) -> Any:
        return script._upgrade_revs("head", revision)  # noqa: SLF001 - as Alembic's own command does

    with EnvironmentContext(Config(), script, fn=missing) as environment:
        environment.configure(connection=connection)
        environment.run_migrations()
