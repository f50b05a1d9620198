"""Memberships: what payments, refunds, an ADMIN and the clock do to them.

Whatever changes a membership first holds the customer's row. So two events of one customer go one
after the other, and versions rise with what they tell of.
"""

from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from cloud.messaging.outbox import put
from customer.domain import (
    ENDLESS,
    NO_MEMBERSHIP,
    Customer,
    Membership,
    Period,
    PlanPayment,
    UnknownCustomerError,
)
from customer.events import membership_changed
from customer.store.tables import aware, customers, naive, plan_payments, to_customer, versions

_BATCH: Final = 100


class SqlMemberships:
    """Answers `customer.service.Memberships`."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def extend(self, paid: PlanPayment, length: timedelta, *, now: datetime) -> str:
        """Add `length` to the membership, once a transaction, and tell what was done.

        Raises:
            UnknownCustomerError: nobody's record; money came, so it must not pass unseen.
        """
        with self._engine.begin() as db:
            held = _hold_payer(db, paid)
            if held is None:
                raise UnknownCustomerError
            membership, period = held.membership.extended(length, now)
            if not _record(db, paid, held.id, now, period=period):
                return "known"
            _change(db, held, membership, now)
            return "extended"

    def take_back(self, paid: PlanPayment, *, now: datetime) -> str:
        """Take back what is left of the transaction's period, once, and tell what was done.

        A refund that comes first is kept: its payment then changes nothing.
        """
        with self._engine.begin() as db:
            held = _hold_payer(db, paid)
            if _record(db, paid, held.id if held else None, now, ended_at=naive(now)):
                return "kept_for_later"
            this = plan_payments.c.transaction_id == paid.transaction_id
            end = sa.update(plan_payments).where(this, plan_payments.c.ended_at.is_(None))
            row = db.execute(end.values(ended_at=naive(now)).returning(plan_payments)).first()
            if row is None or held is None:
                return "known"
            period = _period(row)
            if left := period.left(now):
                _move_later(db, held.id, period, left)
                _change(db, held, held.membership.shortened(left, now), now)
            return "taken_back"

    def set(self, customer_id: int, *, subscribed: bool, now: datetime) -> Customer:
        """Begin a membership without an end unless one runs, or end it and all that was paid for.

        Raises:
            UnknownCustomerError: there is no such record.
        """
        with self._engine.begin() as db:
            held = _hold(db, customers.c.id == customer_id)
            if held is None:
                raise UnknownCustomerError
            if not subscribed:
                paid = plan_payments.c.customer_id == customer_id
                end = sa.update(plan_payments).where(paid, plan_payments.c.ended_at.is_(None))
                db.execute(end.values(ended_at=naive(now)))
                return _change(db, held, NO_MEMBERSHIP, now)
            if held.membership.is_active(now):
                return held
            return _change(db, held, ENDLESS, now)

    def end_expired(self, now: datetime) -> int:
        """Clear the flags whose end has come, and return how many.

        In batches, so that no lock is held for long. Safe side by side on two instances.
        """
        over = customers.c.is_subscribed & (customers.c.subscription_expires_at <= naive(now))
        chosen = sa.select(customers).where(over).order_by(customers.c.id).limit(_BATCH)
        ended = 0
        while True:
            with self._engine.begin() as db:
                rows = db.execute(chosen.with_for_update(skip_locked=True)).all()
                for row in rows:
                    _change(db, to_customer(row), NO_MEMBERSHIP, now)
            ended += len(rows)
            if len(rows) < _BATCH:
                return ended


def announce(db: sa.Connection, customer: Customer, now: datetime) -> None:
    """Tell of the membership as it is now; of a record without a user, when it gets one."""
    if customer.user_id is not None:
        version = db.execute(sa.select(versions.next_value())).scalar_one()
        put(
            db,
            membership_changed(customer.user_id, customer.id, customer.membership, version, now),
            now,
        )


def _hold(db: sa.Connection, which: sa.ColumnElement[bool]) -> Customer | None:
    row = db.execute(sa.select(customers).where(which).with_for_update()).first()
    return to_customer(row) if row else None


def _hold_payer(db: sa.Connection, paid: PlanPayment) -> Customer | None:
    """Hold the record that the payment names, else the one of its user."""
    named = _hold(db, customers.c.id == paid.customer_id)
    if named is None and paid.user_id is not None:
        return _hold(db, customers.c.user_id == paid.user_id)
    return named


def _record(
    db: sa.Connection,
    paid: PlanPayment,
    customer_id: int | None,
    now: datetime,
    *,
    period: Period | None = None,
    ended_at: datetime | None = None,
) -> bool:
    """Write the transaction down; False when it is known."""
    row = {
        "transaction_id": paid.transaction_id,
        "customer_id": customer_id,
        "plan": paid.plan,
        "starts_at": period and naive(period.starts_at),
        "ends_at": period and naive(period.ends_at),
        "ended_at": ended_at,
        "created_at": naive(now),
    }
    return db.execute(insert(plan_payments).values(row).on_conflict_do_nothing()).rowcount == 1


def _period(row: Any) -> Period:
    starts_at, ends_at = aware(row.starts_at), aware(row.ends_at)
    if starts_at is None or ends_at is None:
        raise AssertionError("a payment that counts has a period")
    return Period(starts_at, ends_at)


def _move_later(db: sa.Connection, customer_id: int, gone: Period, by: timedelta) -> None:
    """Let the periods behind one that is taken back come earlier."""
    behind = sa.update(plan_payments).where(
        plan_payments.c.customer_id == customer_id,
        plan_payments.c.ended_at.is_(None),
        plan_payments.c.starts_at >= naive(gone.ends_at),
    )
    moved = {"starts_at": plan_payments.c.starts_at - by, "ends_at": plan_payments.c.ends_at - by}
    db.execute(behind.values(moved))


def _change(db: sa.Connection, held: Customer, membership: Membership, now: datetime) -> Customer:
    """Write a membership into the row that is held, and tell of it if it is another one."""
    if membership == held.membership:
        return held
    ends_at = membership.ends_at
    change = sa.update(customers).where(customers.c.id == held.id)
    values = {
        "is_subscribed": membership.flag,
        "subscription_expires_at": ends_at and naive(ends_at),
        "updated_at": naive(now),
    }
    row = db.execute(change.values(values).returning(customers)).one()
    changed = to_customer(row)
    announce(db, changed, now)
    return changed
