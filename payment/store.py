"""Tables of payment; one method is one transaction of the database."""

import hashlib
import secrets
import select
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert

from cloud import tracing
from cloud.messaging import outbox
from payment import events
from payment.domain import (
    AlreadyBoughtError,
    CustomerId,
    Intent,
    KeyInFlightError,
    KeyReusedError,
    MovieId,
    Order,
    Status,
    Transaction,
    TransactionId,
    UserId,
    Verdict,
)

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
    sa.Column("user_id", sa.BigInteger),
    sa.Column("idempotency_key", sa.String),
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
    sa.Column("due_at", sa.DateTime),
    sa.Column("told_at", sa.DateTime),
    sa.Column("context", JSONB),
)
messages = outbox.outbox(metadata)

SANDBOX_CHANNEL = "payment_sandbox"
_COLUMNS = [column for column in transactions.c if column.name != "idempotency_key"]
_PAID = sa.func.lower(transactions.c.status).in_([Status.SUCCEEDED, "completed"])
_STAMP = {
    Status.SUCCEEDED: "paid_at",
    Status.FAILED: "failed_at",
    Status.CANCELED: "canceled_at",
}


class SqlTransactions:
    """The durable record of payments."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def open(self, order: Order, *, reuse_since: datetime, now: datetime) -> Transaction:
        """Insert a pending transaction, or return the one this order already has.

        That is the one of the same idempotency key; without a key, a pending one of the same
        customer and title since `reuse_since`.

        Raises:
            AlreadyBoughtError: the customer owns the title.
        """
        table, title = transactions, f"{order.customer_id}:{order.movie_id}"
        same = (table.c.customer_id == order.customer_id) & (table.c.movie_id == order.movie_id)
        with self._engine.begin() as db:
            # Two clicks at once must see each other: one buyer of one title at a time.
            db.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(title, 0))))
            if order.key is not None:
                by_key = (table.c.user_id == order.user_id) & (table.c.idempotency_key == order.key)
                found = db.execute(sa.select(*_COLUMNS).where(by_key)).first()
                if found is not None:
                    return _transaction(found)
            if db.execute(sa.select(table.c.id).where(same, _PAID).limit(1)).first():
                raise AlreadyBoughtError("this title is already bought")
            if order.key is None:
                pending = (
                    sa.select(*_COLUMNS)
                    .where(
                        same,
                        table.c.status == Status.PENDING,
                        table.c.user_id == order.user_id,
                        table.c.amount == order.amount,
                        table.c.created_at > _naive(reuse_since),
                    )
                    .order_by(table.c.id.desc())
                )
                found = db.execute(pending.limit(1)).first()
                if found is not None:
                    return _transaction(found)
            row = sa.insert(table).values(
                customer_id=order.customer_id,
                movie_id=order.movie_id,
                amount=order.amount,
                currency=order.currency,
                status=Status.PENDING,
                created_at=_naive(now),
                user_id=order.user_id,
                idempotency_key=order.key,
            )
            return _transaction(db.execute(row.returning(*_COLUMNS)).one())

    def attach(self, transaction_id: TransactionId, intent: Intent) -> None:
        """Record which intent of the provider collects this transaction."""
        with self._engine.begin() as db:
            db.execute(
                sa.update(transactions)
                .where(transactions.c.id == transaction_id)
                .values(stripe_payment_intent_id=intent.id, stripe_customer_id=intent.customer)
            )

    def settle(self, verdict: Verdict, *, now: datetime) -> bool:
        """Move the transaction as the provider decided; the event is written beside it.

        False, and nothing changed, for a repeated or late verdict, or one that does not match
        the transaction's intent, amount and currency.
        """
        table = transactions
        mine = sa.select(*_COLUMNS).where(table.c.id == verdict.transaction_id)
        with self._engine.begin() as db:
            row = db.execute(mine.with_for_update()).first()
            if row is None or not _matches(row, verdict):
                return False
            if not Status(row.status).may_become(verdict.status):
                return False
            change = (
                sa.update(table)
                .where(table.c.id == verdict.transaction_id)
                .values(
                    status=verdict.status,
                    charge_id=verdict.charge_id,
                    stripe_payment_intent_id=verdict.intent_id,
                    error_message=verdict.reason and verdict.reason[:255],
                    **{_STAMP[verdict.status]: _naive(now)},
                )
            )
            settled = _transaction(db.execute(change.returning(*_COLUMNS)).one())
            if verdict.status is Status.SUCCEEDED:
                outbox.put(db, events.payment_succeeded(settled), now)
        return True

    def find(self, transaction_id: TransactionId) -> Transaction | None:
        """Return one transaction."""
        with self._engine.connect() as db:
            query = sa.select(*_COLUMNS).where(transactions.c.id == transaction_id)
            row = db.execute(query).first()
        return None if row is None else _transaction(row)

    def of_customer(
        self, customer_id: CustomerId, *, limit: int, offset: int
    ) -> Sequence[Transaction]:
        """List a customer's transactions, newest first."""
        return self._list(transactions.c.customer_id == customer_id, limit, offset)

    def of_user(self, user_id: UserId | None, *, limit: int, offset: int) -> Sequence[Transaction]:
        """List a user's transactions, newest first; everybody's for None.

        Rows that a JVM service wrote have no user: they count by their customer.
        """
        if user_id is None:
            return self._list(sa.true(), limit, offset)
        theirs = sa.select(transactions.c.customer_id).where(transactions.c.user_id == user_id)
        orphaned = transactions.c.user_id.is_(None) & transactions.c.customer_id.in_(theirs)
        return self._list((transactions.c.user_id == user_id) | orphaned, limit, offset)

    def knows(self, customer_id: CustomerId, user_id: UserId) -> bool:
        """Tell whether this user has paid as this customer before."""
        table = transactions
        query = sa.select(table.c.id).where(
            table.c.customer_id == customer_id, table.c.user_id == user_id
        )
        with self._engine.connect() as db:
            return db.execute(query.limit(1)).first() is not None

    def bought(self, customer_id: CustomerId, movie_id: MovieId) -> bool:
        """Tell whether a succeeded transaction of this customer and title exists."""
        table = transactions
        query = sa.select(table.c.id).where(
            table.c.customer_id == customer_id, table.c.movie_id == movie_id, _PAID
        )
        with self._engine.connect() as db:
            return db.execute(query.limit(1)).first() is not None

    def _list(
        self, which: sa.ColumnElement[bool], limit: int, offset: int
    ) -> Sequence[Transaction]:
        newest = (transactions.c.created_at.desc().nulls_last(), transactions.c.id.desc())
        query = sa.select(*_COLUMNS).where(which).order_by(*newest).limit(limit).offset(offset)
        with self._engine.connect() as db:
            return [_transaction(row) for row in db.execute(query)]


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """The first answer to an idempotency key, to be given again."""

    status: int
    body: bytes


class SqlKeys:
    """Idempotency keys: who claimed one, and what was answered (Stripe's semantics)."""

    def __init__(self, engine: sa.Engine, lease: timedelta) -> None:
        self._engine = engine
        self._lease = lease

    def claim(self, user_id: int, key: str, digest: str, *, now: datetime) -> KeptAnswer | None:
        """Claim the key for this request; the kept answer when it was answered before.

        A claim older than the lease belongs to a process that died: it is taken over, and the
        transaction that the dead one may have opened is found again by its key.

        Raises:
            KeyReusedError: claimed with another body.
            KeyInFlightError: claimed and not answered yet.
        """
        fresh = insert(keys).values(
            user_id=user_id, key=key, request_hash=digest, claimed_at=_naive(now)
        )
        dead = (keys.c.status.is_(None)) & (keys.c.claimed_at < _naive(now - self._lease))
        take = fresh.on_conflict_do_update(
            index_elements=[keys.c.user_id, keys.c.key],
            set_={"claimed_at": _naive(now)},
            where=dead & (keys.c.request_hash == digest),
        ).returning(keys.c.key)
        with self._engine.begin() as db:
            if db.execute(take).first() is not None:
                return None
            row = db.execute(
                sa.select(keys).where(keys.c.user_id == user_id, keys.c.key == key)
            ).first()
        if row is None:  # released between the two statements: the client may try again
            raise KeyInFlightError("a request with this Idempotency-Key is in flight")
        if row.request_hash != digest:
            raise KeyReusedError("this Idempotency-Key was used with another body")
        if row.status is None:
            raise KeyInFlightError("a request with this Idempotency-Key is in flight")
        return KeptAnswer(status=row.status, body=bytes(row.body))

    def keep(self, user_id: int, key: str, answer: KeptAnswer) -> None:
        """Keep the answer for the next request with this key."""
        with self._engine.begin() as db:
            db.execute(
                sa.update(keys)
                .where(keys.c.user_id == user_id, keys.c.key == key)
                .values(status=answer.status, body=answer.body)
            )

    def release(self, user_id: int, key: str) -> None:
        """Give an unanswered key back: a refused request uses up none."""
        mine = (keys.c.user_id == user_id) & (keys.c.key == key) & keys.c.status.is_(None)
        with self._engine.begin() as db:
            db.execute(sa.delete(keys).where(mine))

    def purge(self, *, before: datetime) -> int:
        """Forget answers older than `before`; return how many."""
        with self._engine.begin() as db:
            return db.execute(sa.delete(keys).where(keys.c.claimed_at < _naive(before))).rowcount


class Sandbox:
    """A provider that takes no money and approves everything, a moment later.

    Like a real one it decides in a step of its own: `due` hands out verdicts to be delivered,
    `told` marks them as received. A verdict is handed out again until it is.
    """

    def __init__(self, engine: sa.Engine, delay: timedelta) -> None:
        self._engine = engine
        self._delay = delay

    def start(self, transaction: Transaction, *, now: datetime) -> Intent:
        """Create the intent of a transaction, or return the one it has."""
        intent_id = f"pi_sandbox_{secrets.token_hex(12)}"
        buyer = hashlib.sha256(str(transaction.customer_id).encode()).hexdigest()[:14]
        context: dict[str, str] = {}
        tracing.inject(context)
        fresh = insert(intents).values(
            transaction_id=transaction.id,
            intent_id=intent_id,
            client_secret=f"{intent_id}_secret_{secrets.token_urlsafe(18)}",
            ephemeral_key=f"ek_sandbox_{secrets.token_urlsafe(24)}",
            customer=f"cus_sandbox_{buyer}",
            amount=transaction.amount,
            currency=transaction.currency,
            due_at=_naive(now + self._delay),
            context=context,
        )
        mine = sa.select(intents).where(intents.c.transaction_id == transaction.id)
        with self._engine.begin() as db:
            made = db.execute(fresh.on_conflict_do_nothing())
            row = db.execute(mine).one()
            if made.rowcount:
                db.execute(sa.select(sa.func.pg_notify(SANDBOX_CHANNEL, "")))
        return Intent(row.intent_id, row.client_secret, row.ephemeral_key, row.customer)

    def due(self, *, now: datetime, limit: int = 50) -> list[tuple[Verdict, Mapping[str, Any]]]:
        """List verdicts whose time has come, each with the trace context of its request."""
        ripe = intents.c.told_at.is_(None) & (intents.c.due_at <= _naive(now))
        query = sa.select(intents).where(ripe).order_by(intents.c.due_at).limit(limit)
        with self._engine.connect() as db:
            return [(_verdict(row), row.context) for row in db.execute(query)]

    def next_due(self) -> datetime | None:
        """Return when the next verdict is due, None when nobody waits for one."""
        query = sa.select(sa.func.min(intents.c.due_at)).where(intents.c.told_at.is_(None))
        with self._engine.connect() as db:
            moment = db.execute(query).scalar()
        return None if moment is None else moment.replace(tzinfo=UTC)

    @contextmanager
    def listening(self) -> Iterator[Callable[[float], None]]:
        """Yield a wait, of so many seconds at most, that a new intent ends early."""
        engine = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as db:
            driver: Any = db.connection.driver_connection
            db.detach()
            db.execute(sa.text(f"LISTEN {SANDBOX_CHANNEL}"))

            def wait(seconds: float) -> None:
                if select.select([driver.fileno()], [], [], seconds)[0]:
                    # A closed connection is readable too; the next statement on it says so.
                    db.execute(sa.text("SELECT 1"))
                    driver.notifies.clear()

            yield wait

    def told(self, transaction_id: TransactionId, *, now: datetime) -> None:
        """Mark a verdict as received."""
        with self._engine.begin() as db:
            db.execute(
                sa.update(intents)
                .where(intents.c.transaction_id == transaction_id)
                .values(told_at=_naive(now))
            )


def _verdict(row: sa.Row[Any]) -> Verdict:
    return Verdict(
        transaction_id=TransactionId(row.transaction_id),
        intent_id=row.intent_id,
        status=Status.SUCCEEDED,
        amount=row.amount,
        currency=row.currency,
        charge_id=row.intent_id.replace("pi_", "ch_", 1),
    )


def _matches(row: sa.Row[Any], verdict: Verdict) -> bool:
    return bool(
        row.stripe_payment_intent_id in (None, verdict.intent_id)
        and row.amount == verdict.amount
        and (row.currency or "").lower() == verdict.currency.lower()
    )


def _transaction(row: sa.Row[Any]) -> Transaction:
    fields = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented accessor
    for name in ("created_at", "paid_at", "failed_at", "canceled_at"):
        if fields[name] is not None:
            fields[name] = fields[name].replace(tzinfo=UTC)
    return Transaction(**fields)


def _naive(moment: datetime) -> datetime:
    """The columns are `timestamp without time zone`, UTC by convention (Hibernate's choice)."""
    return moment.astimezone(UTC).replace(tzinfo=None)
