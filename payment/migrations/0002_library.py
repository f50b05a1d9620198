"""Checkouts without a token, the library, refunds, provider events and what the sandbox decided."""

from alembic import op

revision = "0002"
down_revision = "0001"

_STATEMENTS = """
ALTER TABLE transactions ADD COLUMN IF NOT EXISTS plan_days integer;
ALTER TABLE transactions ADD COLUMN IF NOT EXISTS title jsonb;
ALTER TABLE transactions ADD COLUMN IF NOT EXISTS refunded_at timestamp(6);
ALTER TABLE transactions ADD COLUMN IF NOT EXISTS refund_id varchar(255);
ALTER TABLE transactions ADD COLUMN IF NOT EXISTS checked_at timestamp(6);
CREATE UNIQUE INDEX IF NOT EXISTS ux_transactions_public
    ON transactions (public_id) WHERE public_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS ix_transactions_pending
    ON transactions (created_at) WHERE status = 'pending';
CREATE TABLE IF NOT EXISTS library (
    user_id bigint NOT NULL,
    movie_id varchar(255) NOT NULL,
    title jsonb,
    is_free boolean NOT NULL,
    is_downloaded boolean NOT NULL,
    is_finished boolean NOT NULL,
    added_at timestamp(6) NOT NULL,
    hidden_at timestamp(6),
    PRIMARY KEY (user_id, movie_id)
);
CREATE TABLE IF NOT EXISTS provider_events (
    id varchar(255) PRIMARY KEY,
    received_at timestamp(6) NOT NULL
);
CREATE INDEX IF NOT EXISTS ix_provider_events_age ON provider_events (received_at);
CREATE TABLE IF NOT EXISTS refunds (
    transaction_id bigint PRIMARY KEY,
    requested_by bigint NOT NULL,
    requested_at timestamp(6) NOT NULL,
    tried_at timestamp(6) NOT NULL
);
CREATE TABLE IF NOT EXISTS checkout_limits (
    key varchar(255) PRIMARY KEY,
    minute timestamp(6) NOT NULL,
    count integer NOT NULL
);
ALTER TABLE sandbox_intents ALTER COLUMN due_at DROP NOT NULL;
ALTER TABLE sandbox_intents ADD COLUMN IF NOT EXISTS method varchar(255);
ALTER TABLE sandbox_intents ADD COLUMN IF NOT EXISTS canceled_at timestamp(6);
"""


def upgrade() -> None:
    """Add what is missing; columns are nullable, so that a JVM service goes on inserting."""
    op.execute(_STATEMENTS)
