"""What this house tells others: a payment succeeded."""

import json
from typing import Final

from cloud.messaging import Event
from payment.domain import Transaction

EXCHANGE: Final = "payment-exchange"
JVM_EXCHANGE: Final = "payment.exchange"
SUCCEEDED: Final = "payment.succeeded"
_TYPE: Final = "com.nozie.common.event.PaymentSucceededEvent"


def payment_succeeded(transaction: Transaction) -> Event:
    """Build the event; keys in the order of the JVM publisher, `userId` added for our readers.

    The amount is written as a JSON number with its two decimals: never through a float.
    """
    fields = {
        "transactionId": str(transaction.id),
        "customerId": str(transaction.customer_id),
        "movieId": json.dumps(transaction.movie_id),
        "amount": f"{transaction.amount:.2f}",
        "currency": json.dumps(transaction.currency),
        "userId": json.dumps(transaction.user_id),
    }
    body = "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"
    return Event(
        exchange=EXCHANGE,
        routing_key=SUCCEEDED,
        body=body.encode(),
        key=str(transaction.id),
        type_id=_TYPE,
        headers={"x-payment-status": "succeeded"},
    )
