"""What customer-service last told of each user's membership."""

from alembic import op

revision = "0002"
down_revision = "0001"

_STATEMENTS = """
CREATE TABLE IF NOT EXISTS memberships (
    user_id bigint PRIMARY KEY,
    version bigint NOT NULL,
    active boolean NOT NULL,
    granted boolean NOT NULL,
    changed_at timestamp(6) NOT NULL
);
"""


def upgrade() -> None:
    """Create what is missing."""
    op.execute(_STATEMENTS)
