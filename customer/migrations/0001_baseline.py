"""Customer records as the JVM service keeps them, and what ownership and events add."""

from alembic import op

revision = "0001"
down_revision = None

_STATEMENTS = """
CREATE TABLE IF NOT EXISTS customers (
    id bigserial PRIMARY KEY,
    firebase_uid varchar(255) CONSTRAINT uk_ear2fekgai78b2eh3rqew7i4d UNIQUE,
    email varchar(255) NOT NULL CONSTRAINT uk_rfbvkrffamfql7cjmen8v976v UNIQUE,
    full_name varchar(255),
    phone_number varchar(255),
    avatar_url varchar(255),
    date_of_birth varchar(255),
    gender varchar(255),
    is_subscribed boolean,
    stripe_customer_id varchar(255),
    created_at timestamp(6),
    updated_at timestamp(6)
);
ALTER TABLE customers ADD COLUMN IF NOT EXISTS user_id bigint;
ALTER TABLE customers ADD COLUMN IF NOT EXISTS subscription_expires_at timestamp(6);
CREATE UNIQUE INDEX IF NOT EXISTS uk_customers_user_id ON customers (user_id);
CREATE INDEX IF NOT EXISTS ix_customers_address ON customers (lower(email));
CREATE TABLE IF NOT EXISTS processed_events (
    key varchar(255) PRIMARY KEY,
    processed_at timestamp(6) NOT NULL
);
"""


def upgrade() -> None:
    """Create what is missing; a JVM service may have made `customers` first."""
    op.execute(_STATEMENTS)
