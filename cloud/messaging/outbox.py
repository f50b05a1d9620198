"""The outbox: events wait in the table that their cause is written to, in the same transaction.

So a payment is announced if and only if it was committed, whatever the broker does meanwhile
(microservices.io, transactional outbox). `cloud.messaging.relay` empties it.
"""

import uuid
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from cloud import tracing
from cloud.messaging.event import Event

NAME: Final = "outbox"

# For a migration of the house: `for statement in DDL: op.execute(statement)`.
DDL: Final = (
    """
    CREATE TABLE IF NOT EXISTS outbox (
        id bigserial PRIMARY KEY,
        message_id uuid NOT NULL,
        exchange varchar(255) NOT NULL,
        routing_key varchar(255) NOT NULL,
        key varchar(255) NOT NULL,
        type_id varchar(255),
        headers jsonb NOT NULL,
        body bytea NOT NULL,
        created_at timestamptz NOT NULL,
        attempts integer NOT NULL DEFAULT 0,
        retry_at timestamptz
    )
    """,
    "CREATE INDEX IF NOT EXISTS ix_outbox_key_id ON outbox (key, id)",
)


def outbox(metadata: sa.MetaData) -> sa.Table:
    """Describe the table; rows are there from the cause's commit to the broker's confirm."""
    return sa.Table(
        NAME,
        metadata,
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("message_id", sa.Uuid, nullable=False),
        sa.Column("exchange", sa.String(255), nullable=False),
        sa.Column("routing_key", sa.String(255), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("type_id", sa.String(255)),
        sa.Column("headers", postgresql.JSONB, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        # Only for an event that the broker refused or could not route.
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("retry_at", sa.DateTime(timezone=True)),
    )


def put(connection: sa.Connection, event: Event, now: datetime) -> None:
    """Store the event in the caller's transaction, and wake the relay when that commits.

    The trace and the correlation id of the request in hand are stored with it. Order per key holds
    for writers that hold a lock on what the key names, as an UPDATE of its row does.
    """
    headers = dict(event.headers)
    tracing.inject(headers)
    row = {
        "message_id": uuid.uuid4(),
        "exchange": event.exchange,
        "routing_key": event.routing_key,
        "key": event.key,
        "type_id": event.type_id,
        "headers": headers,
        "body": event.body,
        "created_at": now,
    }
    connection.execute(_PUT, row)


# PostgreSQL folds equal notifications of one transaction, and sends none on a rollback.
_PUT: Final = sa.insert(outbox(sa.MetaData())).returning(sa.func.pg_notify(NAME, ""))
