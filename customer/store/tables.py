"""The tables as statements see them; `customer/migrations` makes them."""

from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa

from cloud.messaging.outbox import outbox as _outbox
from customer.domain import Customer, Details, Membership

DETAILS: Final = tuple(Details.__dataclass_fields__)

_metadata = sa.MetaData()

customers = sa.Table(
    "customers",
    _metadata,
    sa.Column("id", sa.BigInteger, primary_key=True),
    sa.Column("firebase_uid", sa.String(255)),
    sa.Column("email", sa.String(255), nullable=False),
    sa.Column("full_name", sa.String(255)),
    sa.Column("phone_number", sa.String(255)),
    sa.Column("avatar_url", sa.String(255)),
    sa.Column("date_of_birth", sa.String(255)),
    sa.Column("gender", sa.String(255)),
    sa.Column("is_subscribed", sa.Boolean),
    sa.Column("stripe_customer_id", sa.String(255)),
    sa.Column("created_at", sa.DateTime),
    sa.Column("updated_at", sa.DateTime),
    sa.Column("user_id", sa.BigInteger),
    sa.Column("subscription_expires_at", sa.DateTime),
)
processed = sa.Table(
    "processed_events",
    _metadata,
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("processed_at", sa.DateTime, nullable=False),
)
# One row a transaction: what it bought, and since when that counts no more. A refund that comes
# before its payment leaves a row without a period.
plan_payments = sa.Table(
    "plan_payments",
    _metadata,
    sa.Column("transaction_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("customer_id", sa.BigInteger),
    sa.Column("plan", sa.String(255), nullable=False),
    sa.Column("starts_at", sa.DateTime),
    sa.Column("ends_at", sa.DateTime),
    sa.Column("ended_at", sa.DateTime),
    sa.Column("created_at", sa.DateTime, nullable=False),
)
versions = sa.Sequence("membership_versions")
outbox = _outbox(_metadata)


def to_customer(row: Any) -> Customer:
    """Read a row of `customers`."""
    return Customer(
        id=row.id,
        user_id=row.user_id,
        details=Details(**{name: getattr(row, name) for name in DETAILS}),
        firebase_uid=row.firebase_uid,
        membership=Membership(row.is_subscribed, aware(row.subscription_expires_at)),
        stripe_customer_id=row.stripe_customer_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def naive(moment: datetime) -> datetime:
    """Drop the offset of an instant: the columns are UTC by convention."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def aware(moment: datetime | None) -> datetime | None:
    """Give an instant its offset back."""
    return moment and moment.replace(tzinfo=UTC)
