"""Table `customers`, shared with a JVM customer-service; one method is one transaction."""

from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from customer.domain import Customer, Details, RecordExistsError, TakenError, UnknownCustomerError

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

# Hibernate's names, without which a JVM service would add constraints of its own.
_TAKEN: Final = {
    "uk_rfbvkrffamfql7cjmen8v976v": "email",
    "uk_ear2fekgai78b2eh3rqew7i4d": "firebaseUid",
}
_DETAILS: Final = tuple(Details.__dataclass_fields__)


class SqlCustomers:
    """Customer records in PostgreSQL."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def create(
        self, details: Details, firebase_uid: str | None, user_id: int | None, *, now: datetime
    ) -> Customer:
        """Insert a record.

        Raises:
            TakenError: another record has the e-mail or the Firebase id.
            RecordExistsError: another record is linked to the user.
        """
        row = {
            **_columns(details),
            "firebase_uid": firebase_uid,
            "user_id": user_id,
            "is_subscribed": False,
            "created_at": _naive(now),
        }
        # Of two racing requests the constraint lets one through; there is no check before it.
        return self._written(insert(customers).values(row).returning(customers))

    def replace(self, customer_id: int, details: Details, *, now: datetime) -> Customer:
        """Overwrite the details of a record that exists.

        Raises:
            TakenError: another record has the e-mail.
            UnknownCustomerError: it has been deleted meanwhile.
        """
        change = sa.update(customers).where(customers.c.id == customer_id)
        values = {**_columns(details), "updated_at": _naive(now)}
        return self._written(change.values(values).returning(customers))

    def _written(self, statement: Any) -> Customer:
        try:
            with self._engine.begin() as db:
                row = db.execute(statement).first()
        except IntegrityError as error:
            constraint = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
            if constraint in _TAKEN:
                raise TakenError(_TAKEN[constraint]) from error
            if constraint == "uk_customers_user_id":
                raise RecordExistsError from error
            raise
        if row is None:
            raise UnknownCustomerError
        return _customer(row)

    def find(self, customer_id: int) -> Customer | None:
        return self._first(customers.c.id == customer_id)

    def find_by_email(self, email: str) -> Customer | None:
        return self._first(customers.c.email == email)

    def claim(self, user_id: int, email: str | None) -> Customer | None:
        """Find the user's record; one that has his e-mail and no user yet is linked to him."""
        mine = customers.c.user_id == user_id
        found = self._first(mine)
        if found is not None or not email:
            return found
        try:
            with self._engine.begin() as db:
                row = db.execute(_link(user_id, email)).first()
        except IntegrityError:  # another request has linked him meanwhile
            return self._first(mine)
        return _customer(row) if row else self._first(mine)

    def page(self, *, offset: int, limit: int) -> tuple[list[Customer], int]:
        """Return records by id ascending, and how many there are."""
        chosen = sa.select(customers).order_by(customers.c.id).offset(offset).limit(limit)
        count = sa.select(sa.func.count()).select_from(customers)
        with self._engine.connect() as db:
            return [_customer(row) for row in db.execute(chosen)], db.execute(count).scalar_one()

    def welcome(self, user_id: int, email: str | None, *, now: datetime) -> str:
        """Give a new user his record, once per user, and tell what was done.

        A second delivery changes nothing, even when the record is gone meanwhile.
        """
        key = {"key": f"user.created:{user_id}", "processed_at": _naive(now)}
        known = sa.exists().where(customers.c.user_id == user_id)
        with self._engine.begin() as db:
            if not _added(db, processed, key):
                return "known"
            # The user himself may have come before the event.
            if not email or db.execute(sa.select(known)).scalar_one():
                return "nothing_to_do"
            if db.execute(_link(user_id, email)).first():
                return "linked"
            row = {"email": email, "user_id": user_id, "is_subscribed": False}
            added = _added(db, customers, {**row, "created_at": _naive(now)})
            return "created" if added else "address_taken"

    def _first(self, condition: sa.ColumnElement[bool]) -> Customer | None:
        with self._engine.connect() as db:
            row = db.execute(sa.select(customers).where(condition)).first()
        return _customer(row) if row else None


def _link(user_id: int, email: str) -> Any:
    """Build the statement that links the oldest unlinked record of this address."""
    fold = sa.func.lower
    unlinked = (
        sa.select(customers.c.id)
        .where(customers.c.user_id.is_(None), fold(customers.c.email) == fold(email))
        .order_by(customers.c.id)
        .limit(1)
        .with_for_update()
        .scalar_subquery()
    )
    change = sa.update(customers).where(customers.c.id == unlinked)
    return change.values(user_id=user_id).returning(customers)


def _added(db: sa.Connection, table: sa.Table, row: dict[str, Any]) -> bool:
    statement = insert(table).values(row).on_conflict_do_nothing()
    return db.execute(statement).rowcount == 1


def _columns(details: Details) -> dict[str, Any]:
    return {name: getattr(details, name) for name in _DETAILS}


def _customer(row: Any) -> Customer:
    return Customer(
        id=row.id,
        user_id=row.user_id,
        details=Details(**{name: getattr(row, name) for name in _DETAILS}),
        firebase_uid=row.firebase_uid,
        is_subscribed=row.is_subscribed,
        stripe_customer_id=row.stripe_customer_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _naive(moment: datetime) -> datetime:
    """Drop the offset of an instant: the columns are UTC by convention."""
    return moment.astimezone(UTC).replace(tzinfo=None)
