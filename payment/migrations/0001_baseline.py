"""Transactions as the JVM service keeps them, and what idempotency and the sandbox add."""

from alembic import op

from cloud.messaging import outbox

revision = "0001"
down_revision = None

_STATEMENTS = """
CREATE TABLE IF NOT EXISTS transactions (
    id bigserial PRIMARY KEY,
    customer_id bigint NOT NULL,
    movie_id varchar(255) NOT NULL,
    amount numeric(10,2) NOT NULL,
    currency varchar(255),
    status varchar(255),
    stripe_payment_intent_id varchar(255),
    stripe_customer_id varchar(255),
    charge_id varchar(255),
    error_message varchar(255),
    created_at timestamp(6),
    paid_at timestamp(6),
    failed_at timestamp(6),
    canceled_at timestamp(6)
);
ALTER TABLE transactions ADD COLUMN IF NOT EXISTS user_id bigint;
ALTER TABLE transactions ADD COLUMN IF NOT EXISTS idempotency_key varchar(255);
ALTER TABLE transactions ADD COLUMN IF NOT EXISTS request_hash varchar(64);
ALTER TABLE transactions ADD COLUMN IF NOT EXISTS public_id varchar(64);
CREATE INDEX IF NOT EXISTS ix_transactions_customer
    ON transactions (customer_id, created_at DESC);
CREATE INDEX IF NOT EXISTS ix_transactions_title
    ON transactions (customer_id, movie_id, status);
CREATE INDEX IF NOT EXISTS ix_transactions_user ON transactions (user_id, created_at DESC);
CREATE UNIQUE INDEX IF NOT EXISTS ux_transactions_intent
    ON transactions (stripe_payment_intent_id) WHERE stripe_payment_intent_id IS NOT NULL;
CREATE UNIQUE INDEX IF NOT EXISTS ux_transactions_key
    ON transactions (user_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE TABLE IF NOT EXISTS idempotency_keys (
    user_id bigint NOT NULL,
    key varchar(255) NOT NULL,
    request_hash varchar(64) NOT NULL,
    claimed_at timestamp(6) NOT NULL,
    status integer,
    body bytea,
    PRIMARY KEY (user_id, key)
);
CREATE INDEX IF NOT EXISTS ix_idempotency_keys_age ON idempotency_keys (claimed_at);
CREATE TABLE IF NOT EXISTS sandbox_intents (
    transaction_id bigint PRIMARY KEY,
    intent_id varchar(64) NOT NULL UNIQUE,
    client_secret varchar(128) NOT NULL,
    ephemeral_key varchar(64) NOT NULL,
    customer varchar(64) NOT NULL,
    amount numeric(10,2) NOT NULL,
    currency varchar(3) NOT NULL,
    due_at timestamp(6) NOT NULL,
    told_at timestamp(6),
    context jsonb NOT NULL
);
CREATE INDEX IF NOT EXISTS ix_sandbox_intents_due
    ON sandbox_intents (due_at) WHERE told_at IS NULL;
"""


def upgrade() -> None:
    """Create what is missing; a JVM service may have made `transactions` first."""
    for statement in (_STATEMENTS, *outbox.DDL):
        op.execute(statement)
