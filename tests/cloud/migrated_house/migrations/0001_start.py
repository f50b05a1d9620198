"""The first table, slow enough for two instances to meet."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("CREATE TABLE IF NOT EXISTS films (id bigserial PRIMARY KEY)")
    op.execute("SELECT pg_sleep(0.2)")
