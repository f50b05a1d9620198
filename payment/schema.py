"""Shapes of payment's bodies: `PaymentRequest.parse` on the way in, `dump_*` on the way out."""

import hashlib
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from cloud.envelope import local_date_time
from cloud.schema import Body, Int64, Money, NotBlank, Text
from payment.domain import CustomerId, Intent, MovieId, Order, Status, Transaction, UserId


def _currency(text: str) -> str:
    code = text.strip().lower()
    if len(code) != 3 or not code.isascii() or not code.isalpha():  # noqa: PLR2004 - ISO 4217
        raise ValueError("must be three letters")
    return code


class PaymentRequest(Body):
    """Body of createPayment."""

    customer_id: Int64
    movie_id: Annotated[NotBlank, Text(255)]
    amount: Annotated[Money, Field(gt=0)]
    currency: Annotated[str, AfterValidator(_currency)] = "usd"
    idempotency_key: Annotated[str, Text(255)] | None = None

    def order(self, user_id: int, key: str | None) -> Order:
        """Return what the caller asks to buy; the amount at two decimals."""
        return Order(
            customer_id=CustomerId(self.customer_id),
            movie_id=MovieId(self.movie_id),
            amount=self.amount.quantize(Decimal("0.01")),
            currency=self.currency,
            user_id=UserId(user_id),
            key=key,
        )

    def digest(self) -> str:
        """Fingerprint of the body's meaning: spelling and order of fields do not count."""
        parts = (self.customer_id, self.movie_id, f"{self.amount:.2f}", self.currency)
        return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()


def dump_started(transaction: Transaction, intent: Intent) -> dict[str, Any]:
    """PaymentResponse of the contract."""
    return {
        "transactionId": transaction.id,
        "clientSecret": intent.client_secret,
        "ephemeralKey": intent.ephemeral_key,
        "customerId": intent.customer,
    }


def dump_transaction(transaction: Transaction) -> dict[str, Any]:
    """Transaction of the contract; all keys always, instants local."""
    instants = {
        "createdAt": transaction.created_at,
        "paidAt": transaction.paid_at,
        "failedAt": transaction.failed_at,
        "canceledAt": transaction.canceled_at,
    }
    return {
        "id": transaction.id,
        "customerId": transaction.customer_id,
        "movieId": transaction.movie_id,
        "amount": transaction.amount,
        "currency": transaction.currency,
        "status": _status(transaction.status),
        "stripePaymentIntentId": transaction.stripe_payment_intent_id,
        "stripeCustomerId": transaction.stripe_customer_id,
        "chargeId": transaction.charge_id,
        "errorMessage": transaction.error_message,
        **{name: moment and local_date_time(moment) for name, moment in instants.items()},
    }


def _status(stored: str | None) -> str | None:
    """Spell a stored status; COMPLETED of old seed data counts as succeeded."""
    if stored is None:
        return None
    lower = stored.lower()
    return Status.SUCCEEDED if lower == "completed" else lower
