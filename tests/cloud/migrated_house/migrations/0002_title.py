"""A column more."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("ALTER TABLE films ADD COLUMN IF NOT EXISTS title varchar(255)")
    op.execute("INSERT INTO films (title) VALUES ('one')")
