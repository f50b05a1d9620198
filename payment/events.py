"""What this house tells others: a payment succeeded, or was given back."""

import json
from typing import Final

from cloud.messaging import Event
from payment.domain import Transaction

EXCHANGE: Final = "payment-exchange"
JVM_EXCHANGE: Final = "payment.exchange"
SUCCEEDED: Final = "payment.succeeded"
REFUNDED: Final = "payment.refunded"
_TYPE: Final = "com.nozie.common.event.PaymentSucceededEvent"


def payment_succeeded(transaction: Transaction) -> Event:
    """Build the event; keys in the order of the JVM publisher, further ones for our readers."""
    return _event(transaction, SUCCEEDED, _TYPE, "succeeded")


def payment_refunded(transaction: Transaction) -> Event:
    """Build the event; no JVM service has a type for it, so it names none."""
    return _event(transaction, REFUNDED, None, "refunded")


def _event(transaction: Transaction, routing_key: str, type_id: str | None, status: str) -> Event:
    """Write the body; the amount as a JSON number with its two decimals, never through a float."""
    fields = {
        "transactionId": str(transaction.id),
        "customerId": str(transaction.customer_id),
        "movieId": json.dumps(transaction.movie_id),
        "amount": f"{transaction.amount:.2f}",
        "currency": json.dumps(transaction.currency),
        "userId": json.dumps(transaction.user_id),
        "planDays": json.dumps(transaction.plan_days),
    }
    body = "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"
    return Event(
        exchange=EXCHANGE,
        routing_key=routing_key,
        body=body.encode(),
        key=str(transaction.id),
        type_id=type_id,
        headers={"x-payment-status": status},
    )
