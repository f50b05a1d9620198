"""Provider's events for tests, as Stripe writes them."""

import json
from typing import Any
from uuid import uuid4

from cloud.clock import utc_now
from payment.schema import sign

SECRET = "whsec_of_tests"


def event(made: tuple[object, str], kind: str = "succeeded", **change: Any) -> bytes:
    """Write an event about a payment and its intent; `change` replaces fields of the intent."""
    transaction_id, intent = made
    about = {
        "id": intent,
        "object": "payment_intent",
        "amount": 499,
        "amount_received": 499 if kind == "succeeded" else 0,
        "currency": "usd",
        "latest_charge": "ch_1",
        "last_payment_error": {"message": "Declined."} if kind == "payment_failed" else None,
        "metadata": {"transactionId": str(transaction_id)},
    }
    whole = {
        "id": change.pop("event_id", f"evt_{uuid4().hex}"),
        "object": "event",
        "type": change.pop("type", f"payment_intent.{kind}"),
        "data": {"object": about | change},
    }
    # As Stripe sends it: indented, so that the bytes are not those of our own writer.
    return json.dumps(whole, indent=2).encode()


def signed(raw: bytes, secret: str = SECRET) -> dict[str, str]:
    """Headers that carry the signature."""
    return {
        "Stripe-Signature": sign(raw, secret, now=utc_now()),
        "Content-Type": "application/json; charset=utf-8",
    }
