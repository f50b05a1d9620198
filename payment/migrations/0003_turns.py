"""Pending transactions in the order in which the provider is asked about them."""

from alembic import op

revision = "0003"
down_revision = "0002"

_STATEMENTS = """
DROP INDEX IF EXISTS ix_transactions_pending;
CREATE INDEX IF NOT EXISTS ix_transactions_unasked
    ON transactions (checked_at NULLS FIRST, created_at) WHERE status = 'pending';
"""


def upgrade() -> None:
    """Replace an index of ours; a JVM service knows neither."""
    op.execute(_STATEMENTS)
