"""Customer records."""

from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from cloud.stores.postgres import autocommit
from customer.domain import Customer, Details, RecordExistsError, TakenError, UnknownCustomerError
from customer.store.memberships import announce
from customer.store.tables import DETAILS, customers, naive, processed, to_customer

# Hibernate's names, without which a JVM service would add constraints of its own.
_TAKEN: Final = {
    "uk_rfbvkrffamfql7cjmen8v976v": "email",
    "uk_ear2fekgai78b2eh3rqew7i4d": "firebaseUid",
}

_BY_ID, _BY_EMAIL, _BY_USER = (
    sa.select(customers).where(column == sa.bindparam("wanted"))
    for column in (customers.c.id, customers.c.email, customers.c.user_id)
)


class SqlCustomers:
    """Customer records in PostgreSQL."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine, self._single = engine, autocommit(engine)

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
            "created_at": naive(now),
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
        values = {**_columns(details), "updated_at": naive(now)}
        return self._written(change.values(values).returning(customers))

    def _written(self, statement: Any) -> Customer:
        try:
            with self._single.connect() as db:
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
        return to_customer(row)

    def find(self, customer_id: int) -> Customer | None:
        return self._first(_BY_ID, customer_id)

    def find_by_email(self, email: str) -> Customer | None:
        return self._first(_BY_EMAIL, email)

    def claim(self, user_id: int, email: str | None, *, now: datetime) -> Customer | None:
        """Find the user's record; one that has his e-mail and no user yet is linked to him."""
        found = self._first(_BY_USER, user_id)
        if found is not None or not email:
            return found
        try:
            with self._engine.begin() as db:
                linked = _link(db, user_id, email, now)
        except IntegrityError:  # another request has linked him meanwhile
            return self._first(_BY_USER, user_id)
        return linked or self._first(_BY_USER, user_id)

    def page(self, *, offset: int, limit: int) -> tuple[list[Customer], int]:
        """Return records by id ascending, and how many there are."""
        chosen = sa.select(customers).order_by(customers.c.id).offset(offset).limit(limit)
        count = sa.select(sa.func.count()).select_from(customers)
        with self._single.connect() as db:
            return [to_customer(row) for row in db.execute(chosen)], db.execute(count).scalar_one()

    def welcome(self, user_id: int, email: str | None, *, now: datetime) -> str:
        """Give a new user his record, once per user, and tell what was done.

        A second delivery changes nothing, even when the record is gone meanwhile.
        """
        key = {"key": f"user.created:{user_id}", "processed_at": naive(now)}
        known = sa.exists().where(customers.c.user_id == user_id)
        with self._engine.begin() as db:
            if not _added(db, processed, key):
                return "known"
            # The user himself may have come before the event.
            if not email or db.execute(sa.select(known)).scalar_one():
                return "nothing_to_do"
            if _link(db, user_id, email, now):
                return "linked"
            row = {"email": email, "user_id": user_id, "is_subscribed": False}
            added = _added(db, customers, {**row, "created_at": naive(now)})
            return "created" if added else "address_taken"

    def _first(self, statement: sa.Select[Any], wanted: int | str) -> Customer | None:
        with self._single.connect() as db:
            row = db.execute(statement, {"wanted": wanted}).first()
        return to_customer(row) if row else None


def _link(db: sa.Connection, user_id: int, email: str, now: datetime) -> Customer | None:
    """Link the oldest unlinked record of this address, and tell of a membership in it."""
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
    row = db.execute(change.values(user_id=user_id).returning(customers)).first()
    if row is None:
        return None
    linked = to_customer(row)
    if linked.membership.is_active(now):
        announce(db, linked, now)
    return linked


def _added(db: sa.Connection, table: sa.Table, row: dict[str, Any]) -> bool:
    statement = insert(table).values(row).on_conflict_do_nothing()
    return db.execute(statement).rowcount == 1


def _columns(details: Details) -> dict[str, Any]:
    return {name: getattr(details, name) for name in DETAILS}
