"""What a paid plan bought, and the outbox for what others must know of it."""

from alembic import op

from cloud.messaging import outbox

revision = "0002"
down_revision = "0001"

_STATEMENTS = """
CREATE TABLE IF NOT EXISTS plan_payments (
    transaction_id bigint PRIMARY KEY,
    customer_id bigint,
    plan varchar(255) NOT NULL,
    starts_at timestamp(6),
    ends_at timestamp(6),
    ended_at timestamp(6),
    created_at timestamp(6) NOT NULL
);
CREATE INDEX IF NOT EXISTS ix_plan_payments_customer
    ON plan_payments (customer_id) WHERE ended_at IS NULL;
CREATE INDEX IF NOT EXISTS ix_customers_membership_end
    ON customers (subscription_expires_at) WHERE is_subscribed;
"""

# Its start is the time, in microseconds: were the tables made anew, versions would still be higher
# than all that others have heard.
_VERSIONS = """
DO $$ BEGIN
    EXECUTE format(
        'CREATE SEQUENCE IF NOT EXISTS membership_versions START %s',
        (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
    );
END $$
"""


def upgrade() -> None:
    """Create what is missing."""
    for statements in (_STATEMENTS, _VERSIONS, *outbox.DDL):
        op.execute(statements)
