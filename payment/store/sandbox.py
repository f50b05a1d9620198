"""A provider that takes no money, with cards that end in every way a real one's may.

Like a real provider it decides in a step of its own and tells by events: `due` hands out what has
been decided, `told` marks it as received. What is not marked is handed out again.
"""

import hashlib
import secrets
import select
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from cloud import tracing
from cloud.errors import ConfigurationError, UnavailableError
from cloud.stores.postgres import autocommit, delete_all, listening
from payment.domain import Intent, PriceError, Status, Transaction, TransactionId, Verdict
from payment.store.tables import aware, intents, naive

_CHANNEL: Final = "payment_sandbox"
_WAKE: Final = sa.func.pg_notify(_CHANNEL, "")

_UNTOLD: Final = intents.c.told_at.is_(None)
_MINE: Final = intents.c.transaction_id == sa.bindparam("of")
_MAKE: Final = insert(intents).on_conflict_do_nothing().returning(*intents.c, _WAKE)
_FIND: Final = sa.select(intents).where(_MINE)
_DUE: Final = (
    sa.select(intents)
    .where(_UNTOLD, intents.c.due_at <= sa.bindparam("now"))
    .order_by(intents.c.due_at)
    .limit(sa.bindparam("most"))
)
_NEXT: Final = sa.select(sa.func.min(intents.c.due_at)).where(_UNTOLD)
_TOLD: Final = sa.update(intents).where(_MINE)


@dataclass(frozen=True, slots=True)
class Card:
    """How a test card ends.

    Attributes:
        reason: why it is declined, None when it is not.
        acts: False when the buyer would have to act first, and never does.
        tells: False when neither the answer nor the event ever arrives.
    """

    reason: str | None = None
    acts: bool = True
    tells: bool = True


_CARDS: Final[Mapping[str, Card]] = {
    "visa": Card(),
    "mastercard": Card(),
    "chargeDeclined": Card("Your card was declined."),
    "chargeDeclinedInsufficientFunds": Card("Your card has insufficient funds."),
    "chargeDeclinedExpiredCard": Card("Your card has expired."),
    "authenticationRequired": Card(acts=False),
    "timeout": Card(tells=False),
}


def card(method: str) -> Card | None:
    """Find a test card by its name: `pm_card_visa`, `pm_card_visa_chargeDeclined`."""
    name = method.removeprefix("pm_card_")
    return _CARDS.get(name) or _CARDS.get(name.removeprefix("visa_"))


class Sandbox:
    """The sandbox's intents.

    Args:
        engine: the database of payment.
        delay: how long the imaginary buyer takes to confirm on his device.
        method: the card that he uses.

    Raises:
        ConfigurationError: there is no such card.
    """

    def __init__(self, engine: sa.Engine, delay: timedelta, method: str) -> None:
        if card(method) is None:
            raise ConfigurationError("nozie.payment.sandbox.method is no test card")
        self._engine = autocommit(engine)
        self._delay = delay
        self._method = method

    def start(
        self, transaction: Transaction, buyer: str | None, *, on_device: bool, now: datetime
    ) -> Intent:
        """Create the intent of a transaction, or return the one it has."""
        intent_id = f"pi_sandbox_{secrets.token_hex(12)}"
        context: dict[str, str] = {}
        tracing.inject(context)
        fresh = {
            "transaction_id": transaction.id,
            "intent_id": intent_id,
            "client_secret": f"{intent_id}_secret_{secrets.token_urlsafe(18)}",
            "ephemeral_key": f"ek_sandbox_{secrets.token_urlsafe(24)}",
            "customer": buyer or f"cus_sandbox_{_digest(transaction.provider_key)}",
            "amount": transaction.amount,
            "currency": transaction.currency,
            "context": context,
            **(_decision(self._method, now + self._delay) if on_device else {}),
        }
        with self._engine.connect() as db:
            row = db.execute(_MAKE, fresh).first()
            row = row or db.execute(_FIND, {"of": transaction.id}).one()
        return Intent(row.intent_id, row.client_secret, row.ephemeral_key, row.customer)

    def charge(self, transaction: Transaction, method: str, *, now: datetime) -> Verdict | None:
        """Charge a card at once; what was decided before stays. None while the buyer must act.

        Raises:
            PriceError: no such card.
            UnavailableError: the sandbox does not answer; it may have charged all the same.
        """
        chosen = card(method)
        if chosen is None:
            raise PriceError("no such payment method", {"paymentMethodId": "is unknown"})
        undecided = (intents.c.transaction_id == transaction.id) & (
            intents.c.due_at.is_(None) | (intents.c.due_at > naive(now))
        )
        with self._engine.connect() as db:
            change = sa.update(intents).where(undecided, intents.c.canceled_at.is_(None))
            db.execute(change.values(**_decision(method, now)).returning(_WAKE))
        if not chosen.tells:
            raise UnavailableError("the payment provider does not answer")
        return self.look(transaction, now=now)

    def look(self, transaction: Transaction, *, now: datetime) -> Verdict | None:
        """Return what was decided about a transaction, None while nothing is."""
        with self._engine.connect() as db:
            row = db.execute(_FIND, {"of": transaction.id}).first()
        return None if row is None else _verdict(row, now)

    def cancel(self, transaction: Transaction, *, now: datetime) -> Verdict | None:
        """Give an intent up, unless it was decided; return what is decided now."""
        undecided = (intents.c.transaction_id == transaction.id) & (
            intents.c.due_at.is_(None) | (intents.c.due_at > naive(now))
        )
        with self._engine.connect() as db:
            moment = naive(now)
            gone = {"canceled_at": moment, "due_at": moment, "told_at": None}
            db.execute(sa.update(intents).where(undecided).values(**gone))
        return self.look(transaction, now=now)

    def refund(self, transaction: Transaction, *, now: datetime) -> str:  # noqa: ARG002 - a provider's signature
        """Give the money back; return the refund's id, the same whenever it is asked."""
        return f"re_sandbox_{_digest(transaction.provider_key)}"

    def due(self, *, now: datetime, limit: int = 50) -> list[tuple[Verdict, Mapping[str, Any]]]:
        """List verdicts to be told, each with the trace context of its request."""
        with self._engine.connect() as db:
            rows = db.execute(_DUE, {"now": naive(now), "most": limit}).all()
        found = ((_verdict(row, now), row.context) for row in rows)
        return [(verdict, context) for verdict, context in found if verdict]

    def next_due(self) -> datetime | None:
        """Return when the next verdict is due, None when nobody waits for one."""
        with self._engine.connect() as db:
            return aware(db.execute(_NEXT).scalar())

    @contextmanager
    def listening(self) -> Iterator[Callable[[float], bool]]:
        """Yield a wait, of so many seconds at most, that tells whether a new intent ended it."""
        with listening(self._engine, _CHANNEL) as notices:

            def wait(seconds: float) -> bool:
                came = bool(select.select([notices], [], [], seconds)[0])
                if came:
                    notices.drain()
                return came

            yield wait

    def told(self, transaction_id: TransactionId, *, now: datetime) -> None:
        """Mark a verdict as received."""
        with self._engine.connect() as db:
            db.execute(_TOLD, {"of": transaction_id, "told_at": naive(now)})

    def purge(self, *, before: datetime) -> int:
        """Forget intents that were decided and told before; return how many."""
        old = intents.c.told_at.is_not(None) & (intents.c.due_at < naive(before))
        return delete_all(self._engine, intents, old)


def _decision(method: str, moment: datetime) -> dict[str, Any]:
    """Columns of an intent that is confirmed with a card at `moment`."""
    chosen = card(method) or Card()
    return {
        "method": method,
        "due_at": naive(moment) if chosen.acts else None,
        "told_at": None if chosen.tells else naive(moment),
    }


def _verdict(row: sa.Row[Any], now: datetime) -> Verdict | None:
    if row.due_at is None or row.due_at > naive(now):
        return None
    reason = (card(row.method or "") or Card()).reason
    status = Status.FAILED if reason else Status.SUCCEEDED
    if row.canceled_at is not None:
        status, reason = Status.CANCELED, None
    paid = status is Status.SUCCEEDED
    return Verdict(
        transaction_id=TransactionId(row.transaction_id),
        intent_id=row.intent_id,
        status=status,
        amount=row.amount,
        currency=row.currency,
        charge_id=row.intent_id.replace("pi_", "ch_", 1) if paid else None,
        reason=reason,
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:14]
