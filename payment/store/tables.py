"""What the tables look like, and how their rows are read."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from cloud.messaging import outbox
from payment.domain import MovieId, Status, Title, Transaction

metadata = sa.MetaData()

transactions = sa.Table(
    "transactions",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True),
    sa.Column("customer_id", sa.BigInteger),
    sa.Column("movie_id", sa.String),
    sa.Column("amount", sa.Numeric(10, 2)),
    sa.Column("currency", sa.String),
    sa.Column("status", sa.String),
    sa.Column("stripe_payment_intent_id", sa.String),
    sa.Column("stripe_customer_id", sa.String),
    sa.Column("charge_id", sa.String),
    sa.Column("error_message", sa.String),
    sa.Column("created_at", sa.DateTime),
    sa.Column("paid_at", sa.DateTime),
    sa.Column("failed_at", sa.DateTime),
    sa.Column("canceled_at", sa.DateTime),
    sa.Column("refunded_at", sa.DateTime),
    sa.Column("user_id", sa.BigInteger),
    sa.Column("public_id", sa.String),
    sa.Column("plan_days", sa.Integer),
    sa.Column("title", JSONB),
    sa.Column("idempotency_key", sa.String),
    sa.Column("request_hash", sa.String),
    sa.Column("refund_id", sa.String),
    sa.Column("checked_at", sa.DateTime),
)
keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("user_id", sa.BigInteger, primary_key=True),
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("request_hash", sa.String),
    sa.Column("claimed_at", sa.DateTime),
    sa.Column("status", sa.Integer),
    sa.Column("body", sa.LargeBinary),
)
library = sa.Table(
    "library",
    metadata,
    sa.Column("user_id", sa.BigInteger, primary_key=True),
    sa.Column("movie_id", sa.String, primary_key=True),
    sa.Column("title", JSONB),
    sa.Column("is_free", sa.Boolean),
    sa.Column("is_downloaded", sa.Boolean),
    sa.Column("is_finished", sa.Boolean),
    sa.Column("added_at", sa.DateTime),
    sa.Column("hidden_at", sa.DateTime),
)
provider_events = sa.Table(
    "provider_events",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("received_at", sa.DateTime),
)
refunds = sa.Table(
    "refunds",
    metadata,
    sa.Column("transaction_id", sa.BigInteger, primary_key=True),
    sa.Column("requested_by", sa.BigInteger),
    sa.Column("requested_at", sa.DateTime),
    sa.Column("tried_at", sa.DateTime),
)
checkout_limits = sa.Table(
    "checkout_limits",
    metadata,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("minute", sa.DateTime),
    sa.Column("count", sa.Integer),
)
intents = sa.Table(
    "sandbox_intents",
    metadata,
    sa.Column("transaction_id", sa.BigInteger, primary_key=True),
    sa.Column("intent_id", sa.String),
    sa.Column("client_secret", sa.String),
    sa.Column("ephemeral_key", sa.String),
    sa.Column("customer", sa.String),
    sa.Column("amount", sa.Numeric(10, 2)),
    sa.Column("currency", sa.String),
    sa.Column("method", sa.String),
    sa.Column("due_at", sa.DateTime),
    sa.Column("told_at", sa.DateTime),
    sa.Column("canceled_at", sa.DateTime),
    sa.Column("context", JSONB),
)
messages = outbox.outbox(metadata)

_INNER = {"idempotency_key", "request_hash", "refund_id", "checked_at"}
COLUMNS = [column for column in transactions.c if column.name not in _INNER]
PAID = sa.func.lower(transactions.c.status).in_([Status.SUCCEEDED, "completed"])
OWNED = PAID & transactions.c.refunded_at.is_(None)
NEWEST = (transactions.c.created_at.desc().nulls_last(), transactions.c.id.desc())


def of_user(user_id: int) -> sa.ColumnElement[bool]:
    """Match a user's transactions; rows that a JVM service wrote count by their customer."""
    paid_as = sa.select(transactions.c.customer_id).where(transactions.c.user_id == user_id)
    orphaned = transactions.c.user_id.is_(None) & transactions.c.customer_id.in_(paid_as)
    return (transactions.c.user_id == user_id) | orphaned


def read_transaction(row: sa.Row[Any]) -> Transaction:
    """Read a row of COLUMNS."""
    fields = {column.name: getattr(row, column.name) for column in COLUMNS}
    for name in ("created_at", "paid_at", "failed_at", "canceled_at", "refunded_at"):
        fields[name] = aware(fields[name])
    fields["title"] = read_title(row.movie_id, fields["title"])
    return Transaction(**fields)


def write_title(title: Title) -> dict[str, Any]:
    """Write what is shown of a title; the price as text, so that it keeps its scale."""
    return {
        "price": str(title.price),
        "access": title.access,
        "name": title.name,
        "imageUrl": title.image_url,
        "slug": title.slug,
        "rating": title.rating,
    }


def read_title(movie_id: str, stored: dict[str, Any] | None) -> Title | None:
    """Read what `write_title` wrote."""
    if not stored:
        return None
    return Title(
        id=MovieId(movie_id),
        price=Decimal(stored["price"]),
        access=stored["access"],
        name=stored["name"],
        image_url=stored["imageUrl"],
        slug=stored["slug"],
        rating=stored["rating"],
    )


def naive(moment: datetime) -> datetime:
    """The columns are `timestamp without time zone`, UTC by convention (Hibernate's choice)."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def aware(moment: datetime | None) -> datetime | None:
    """Undo `naive`."""
    return None if moment is None else moment.replace(tzinfo=UTC)
