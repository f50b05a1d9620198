"""The durable record of payments: opened, settled once, given back at most once."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from cloud.messaging import outbox
from cloud.stores.postgres import autocommit, delete_all
from payment import events
from payment.domain import (
    AlreadyBoughtError,
    CustomerId,
    Intent,
    MovieId,
    NotRefundableError,
    Order,
    Outcome,
    Status,
    Title,
    Transaction,
    TransactionId,
    UnknownTransactionError,
    UserId,
    Verdict,
    minor_units,
    read_status,
)
from payment.store.tables import (
    COLUMNS,
    NEWEST,
    OWNED,
    naive,
    of_user,
    provider_events,
    read_transaction,
    refunds,
    transactions,
    write_title,
)

_STAMP = {
    Status.SUCCEEDED: "paid_at",
    Status.FAILED: "failed_at",
    Status.CANCELED: "canceled_at",
}

# Statements of the busiest way are built once: to build one costs more than to send it.
_ID: Final = transactions.c.id == sa.bindparam("of")
_TITLE: Final = (transactions.c.customer_id == sa.bindparam("customer")) & (
    transactions.c.movie_id == sa.bindparam("movie")
)
_LOCK: Final = sa.select(
    sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(sa.bindparam("name"), 0))
)
_OF_KEY: Final = (transactions.c.user_id == sa.bindparam("user")) & (
    transactions.c.idempotency_key == sa.bindparam("of_key")
)
_BY_KEY: Final = sa.select(*COLUMNS).add_columns(transactions.c.request_hash).where(_OF_KEY)
_BOUGHT: Final = sa.select(transactions.c.id).where(_TITLE, OWNED).limit(1)
_OPEN: Final = sa.insert(transactions).returning(*COLUMNS)
_BUYER: Final = (
    sa.select(transactions.c.stripe_customer_id)
    .where(
        transactions.c.customer_id == sa.bindparam("customer"),
        transactions.c.user_id == sa.bindparam("user"),
        transactions.c.public_id.is_(None),
        transactions.c.stripe_customer_id.is_not(None),
    )
    .order_by(transactions.c.id.desc())
    .limit(1)
)
_ATTACH: Final = sa.update(transactions).where(_ID)
_HOLD: Final = sa.select(*COLUMNS).where(_ID).with_for_update()
_SETTLE: Final = sa.update(transactions).where(_ID).returning(*COLUMNS)
_REMEMBER: Final = insert(provider_events).on_conflict_do_nothing()


class SqlTransactions:
    """Payments of all customers."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine, self._single = engine, autocommit(engine)

    def open(
        self,
        order: Order,
        customer_id: CustomerId,
        title: Title,
        *,
        reuse_since: datetime,
        now: datetime,
        public_id: str | None = None,
    ) -> Transaction:
        """Insert a pending transaction, or return the one this order already has.

        That is the one of the same idempotency key; without a key, a pending one of the same
        customer and title since `reuse_since`. A public one is never shared: whoever knows its
        secret may be a stranger.

        Raises:
            AlreadyBoughtError: the customer owns the title.
        """
        same = {"customer": customer_id, "movie": order.movie_id}
        with self._engine.begin() as db:
            # Two clicks at once must see each other: one buyer of one title at a time.
            db.execute(_LOCK, {"name": f"{customer_id}:{order.movie_id}"})
            if order.key is not None and (found := _by_key(db, order)):
                return found
            # In this order: one that succeeds between the two questions, which takes no lock, is
            # found by the second. The other way round neither would see it.
            found = None
            if order.key is None and public_id is None:
                found = _pending(db, order, {**same, "since": naive(reuse_since)})
            if title.plan_days is None and db.execute(_BOUGHT, same).first():
                raise AlreadyBoughtError("this title is already bought")
            if found:
                return found
            row = {
                "customer_id": customer_id,
                "movie_id": order.movie_id,
                "amount": order.amount,
                "currency": order.currency,
                "status": Status.PENDING,
                "created_at": naive(now),
                "user_id": order.user_id,
                "idempotency_key": order.key,
                "request_hash": order.digest,
                "public_id": public_id,
                "plan_days": title.plan_days,
                "title": write_title(title),
            }
            return read_transaction(db.execute(_OPEN, row).one())

    def attach(self, transaction_id: TransactionId, intent: Intent) -> None:
        """Record which intent of the provider collects this transaction."""
        known = {"stripe_payment_intent_id": intent.id, "stripe_customer_id": intent.customer}
        with self._single.connect() as db:
            db.execute(_ATTACH, {"of": transaction_id, **known})

    def settle(self, verdict: Verdict, *, now: datetime, event_id: str | None = None) -> Outcome:
        """Move the transaction as the provider decided; the event is written beside it.

        Nothing changes for a repeated or late verdict, for an event id seen before, or for a
        verdict that does not match the transaction's intent, amount and currency.
        """
        this = {"of": verdict.transaction_id}
        with self._engine.begin() as db:
            row = db.execute(_HOLD, this).first()
            if row is None:
                return Outcome.UNKNOWN
            if not _matches(db, row, verdict):
                return Outcome.CONTRADICTION
            if event_id is not None and not _remember(db, event_id, now):
                return Outcome.NOTHING_NEW
            status = read_status(row.status)
            if status is None or not status.may_become(verdict.status):
                return Outcome.NOTHING_NEW
            change = {
                "status": verdict.status,
                "charge_id": verdict.charge_id,
                "stripe_payment_intent_id": verdict.intent_id or row.stripe_payment_intent_id,
                "error_message": verdict.reason and verdict.reason[:255],
                _STAMP[verdict.status]: naive(now),
            }
            settled = read_transaction(db.execute(_SETTLE, {**this, **change}).one())
            if verdict.status is Status.SUCCEEDED:
                outbox.put(db, events.payment_succeeded(settled), now)
        return Outcome.CHANGED

    def find(self, transaction_id: TransactionId) -> Transaction | None:
        """Return one transaction."""
        return self._find(transactions.c.id == transaction_id)

    def find_public(self, public_id: str, user_id: UserId) -> Transaction | None:
        """Return a checkout made without a token, by its opaque name."""
        mine = (transactions.c.public_id == public_id) & (transactions.c.user_id == user_id)
        return self._find(mine)

    def of_customer(
        self, customer_id: CustomerId, *, limit: int, offset: int
    ) -> Sequence[Transaction]:
        """List a customer's transactions, newest first."""
        return self._list(transactions.c.customer_id == customer_id, limit, offset)

    def of_user(
        self, user_id: UserId | None, *, limit: int, offset: int, movie_id: MovieId | None = None
    ) -> Sequence[Transaction]:
        """List a user's transactions, newest first; everybody's for None."""
        which = sa.true() if user_id is None else of_user(user_id)
        if movie_id is not None:
            which = which & (transactions.c.movie_id == movie_id)
        return self._list(which, limit, offset)

    def knows(self, customer_id: CustomerId, user_id: UserId) -> bool:
        """Tell whether this user has paid as this customer before."""
        table = transactions
        return self._exists((table.c.customer_id == customer_id) & (table.c.user_id == user_id))

    def bought(self, customer_id: CustomerId, movie_id: MovieId) -> bool:
        """Tell whether this customer has paid for the title, and not been paid back."""
        with self._single.connect() as db:
            found = db.execute(_BOUGHT, {"customer": customer_id, "movie": movie_id})
            return found.first() is not None

    def buyer(self, customer_id: CustomerId, user_id: UserId) -> str | None:
        """Return the provider's id of a customer who has paid here before, signed in."""
        with self._single.connect() as db:
            return db.execute(_BUYER, {"customer": customer_id, "user": user_id}).scalar()

    def claim_pending(
        self, *, older_than: datetime, unseen_since: datetime, now: datetime, limit: int = 50
    ) -> Sequence[Transaction]:
        """Take old pending transactions of ours to ask the provider about; each one caller only.

        Whoever was never asked about comes first: however many there are, each has its turn.
        """
        table = transactions
        due = (
            sa.select(table.c.id)
            .where(
                table.c.status == Status.PENDING,
                table.c.user_id.is_not(None),
                table.c.created_at < naive(older_than),
                table.c.checked_at.is_(None) | (table.c.checked_at < naive(unseen_since)),
            )
            .order_by(table.c.checked_at.nulls_first(), table.c.created_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        take = sa.update(table).where(table.c.id.in_(due)).values(checked_at=naive(now))
        with self._single.connect() as db:
            return [read_transaction(row) for row in db.execute(take.returning(*COLUMNS))]

    def request_refund(
        self, transaction_id: TransactionId, by: UserId, *, now: datetime
    ) -> Transaction:
        """Note that a payment is to be given back; it then will be, whoever crashes.

        Raises:
            UnknownTransactionError: there is none.
            NotRefundableError: nothing was paid.
        """
        with self._engine.begin() as db:
            query = sa.select(*COLUMNS).where(transactions.c.id == transaction_id)
            row = db.execute(query.with_for_update()).first()
            if row is None:
                raise UnknownTransactionError("transaction not found")
            if read_status(row.status) is not Status.SUCCEEDED:
                raise NotRefundableError("only a succeeded payment can be refunded")
            if not row.stripe_payment_intent_id:
                raise NotRefundableError("no provider knows this payment")
            if row.refunded_at is None:
                note = insert(refunds).values(
                    transaction_id=transaction_id,
                    requested_by=by,
                    requested_at=naive(now),
                    tried_at=naive(now),
                )
                db.execute(note.on_conflict_do_nothing())
            return read_transaction(row)

    def claim_refunds(self, *, untried_since: datetime, now: datetime) -> Sequence[Transaction]:
        """Take refunds that somebody asked for and nobody has finished."""
        due = (
            sa.select(refunds.c.transaction_id)
            .where(refunds.c.tried_at < naive(untried_since))
            .limit(50)
            .with_for_update(skip_locked=True)
        )
        take = sa.update(refunds).where(refunds.c.transaction_id.in_(due))
        with self._engine.begin() as db:
            taken = db.execute(take.values(tried_at=naive(now)).returning(refunds.c.transaction_id))
            query = sa.select(*COLUMNS).where(transactions.c.id.in_(taken.scalars().all()))
            return [read_transaction(row) for row in db.execute(query)]

    def refunded(
        self, transaction_id: TransactionId, refund_id: str, *, now: datetime
    ) -> Transaction:
        """Record that the money went back; the event is written beside it, once."""
        table = transactions
        change = (
            sa.update(table)
            .where(table.c.id == transaction_id, table.c.refunded_at.is_(None))
            .values(refunded_at=naive(now), refund_id=refund_id)
        )
        with self._engine.begin() as db:
            row = db.execute(change.returning(*COLUMNS)).first()
            if row is not None:
                outbox.put(db, events.payment_refunded(read_transaction(row)), now)
            db.execute(sa.delete(refunds).where(refunds.c.transaction_id == transaction_id))
            found = db.execute(sa.select(*COLUMNS).where(table.c.id == transaction_id)).one()
        return read_transaction(found)

    def refund_refused(self, transaction_id: TransactionId) -> None:
        """Forget a refund that the provider will never make."""
        with self._single.connect() as db:
            db.execute(sa.delete(refunds).where(refunds.c.transaction_id == transaction_id))

    def purge_events(self, *, before: datetime) -> int:
        """Forget ids of provider's events older than `before`; return how many."""
        old = provider_events.c.received_at < naive(before)
        return delete_all(self._engine, provider_events, old)

    def _find(self, which: sa.ColumnElement[bool]) -> Transaction | None:
        with self._single.connect() as db:
            row = db.execute(sa.select(*COLUMNS).where(which)).first()
        return None if row is None else read_transaction(row)

    def _exists(self, which: sa.ColumnElement[bool]) -> bool:
        with self._single.connect() as db:
            query = sa.select(transactions.c.id).where(which)
            return db.execute(query.limit(1)).first() is not None

    def _list(
        self, which: sa.ColumnElement[bool], limit: int, offset: int
    ) -> Sequence[Transaction]:
        query = sa.select(*COLUMNS).where(which).order_by(*NEWEST).limit(limit).offset(offset)
        with self._single.connect() as db:
            return [read_transaction(row) for row in db.execute(query)]


def _by_key(db: sa.Connection, order: Order) -> Transaction | None:
    """Find what an earlier request with this key has opened."""
    mine = {"user": order.user_id, "of_key": order.key}
    row = db.execute(_BY_KEY, mine).first()
    if row is None:
        return None
    if row.request_hash == order.digest:
        return read_transaction(row)
    # A request that was refused has used up no key: its transaction gives it back.
    db.execute(sa.update(transactions).where(_OF_KEY).values(idempotency_key=None), mine)
    return None


def _pending(db: sa.Connection, order: Order, same: Mapping[str, Any]) -> Transaction | None:
    table = transactions
    query = (
        sa.select(*COLUMNS)
        .where(
            _TITLE,
            table.c.created_at > sa.bindparam("since"),
            table.c.status == Status.PENDING,
            table.c.user_id == order.user_id,
            table.c.amount == order.amount,
            table.c.public_id.is_(None),
        )
        .order_by(table.c.id.desc())
    )
    row = db.execute(query.limit(1), same).first()
    return None if row is None else read_transaction(row)


def _remember(db: sa.Connection, event_id: str, now: datetime) -> bool:
    """Store an event's id; False when it was there."""
    return db.execute(_REMEMBER, {"id": event_id, "received_at": naive(now)}).rowcount == 1


def _matches(db: sa.Connection, row: sa.Row[Any], verdict: Verdict) -> bool:
    currency = (row.currency or "").lower()
    same = minor_units(row.amount, currency) == minor_units(verdict.amount, currency)
    if not same or currency != verdict.currency.lower():
        return False
    if row.stripe_payment_intent_id is not None or verdict.intent_id is None:
        return bool(row.stripe_payment_intent_id == verdict.intent_id)
    # We crashed before we noted the intent; it must not be one that another payment has.
    taken = transactions.c.stripe_payment_intent_id == verdict.intent_id
    return db.execute(sa.select(transactions.c.id).where(taken)).first() is None
