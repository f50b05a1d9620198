"""Events as Stripe writes and signs them (https://docs.stripe.com/webhooks#verify-manually).

The sandbox's events are written and signed here too, so that they come in by the same door.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final

import orjson
from pydantic import Field

from cloud.errors import InvalidError
from cloud.schema import Body, Int64, NotBlank, Text
from payment.domain import (
    ForgedEventError,
    Notice,
    Status,
    TransactionId,
    Verdict,
    amount_of,
    minor_units,
)

_TOLERANCE: Final = timedelta(seconds=300)
_TYPES: Final = {
    "payment_intent.succeeded": Status.SUCCEEDED,
    "payment_intent.payment_failed": Status.FAILED,
    "payment_intent.canceled": Status.CANCELED,
}
_NAMES: Final = {status: name for name, status in _TYPES.items()}
_DIGITS: Final = re.compile(r"[0-9]{1,18}")


class _Error(Body):
    message: str | None = None


class _Intent(Body):
    """A PaymentIntent, as far as it concerns us."""

    id: Annotated[NotBlank, Text(255)]
    amount: Int64
    amount_received: Int64 | None = Field(default=None, alias="amount_received")
    currency: str
    latest_charge: str | dict[str, Any] | None = Field(default=None, alias="latest_charge")
    last_payment_error: _Error | None = Field(default=None, alias="last_payment_error")
    metadata: Mapping[str, str] = {}


class _Data(Body):
    object: dict[str, Any]


class _Event(Body):
    id: Annotated[NotBlank, Text(255)]
    type: str
    data: _Data


def parse_event(raw: bytes, signature: str | None, secret: str | None, *, now: datetime) -> Notice:
    """Verify and read an event.

    Args:
        raw: the body, byte by byte as it came.
        signature: the header Stripe-Signature.
        secret: None when no webhook is configured: nothing is believed then.
        now: signatures older or newer than 300 seconds are refused.

    Raises:
        ForgedEventError: the signature is missing, wrong or stale, or the body is no event.
    """
    _verify(raw, signature or "", secret, now)
    try:
        event = _Event.parse(orjson.loads(raw))
        status = _TYPES.get(event.type)
        verdict = None if status is None else _verdict(_Intent.parse(event.data.object), status)
    except (ValueError, InvalidError) as error:
        raise ForgedEventError("the event cannot be read") from error
    return Notice(event.id, event.type, verdict)


def _verify(raw: bytes, signature: str, secret: str | None, now: datetime) -> None:
    pairs = [part.strip().partition("=") for part in signature.split(",")]
    moments = [value for name, _, value in pairs if name == "t" and _DIGITS.fullmatch(value)]
    given = [value.encode() for name, _, value in pairs if name == "v1"]
    if not secret or len(moments) != 1:
        raise ForgedEventError("the signature is missing or malformed")
    wanted = _hmac(raw, moments[0], secret).encode()
    # While a secret is being rolled, an event carries a signature of each.
    if not any([hmac.compare_digest(wanted, one) for one in given]):  # noqa: C419 - every one, always
        raise ForgedEventError("the signature is wrong")
    if abs(now.timestamp() - int(moments[0])) > _TOLERANCE.total_seconds():
        raise ForgedEventError("the signature is too old")


def _verdict(intent: _Intent, status: Status) -> Verdict | None:
    ours = intent.metadata.get("transactionId", "")
    if not _DIGITS.fullmatch(ours):
        return None
    charge, error = intent.latest_charge, intent.last_payment_error
    paid = status is Status.SUCCEEDED
    minor = intent.amount_received if paid and intent.amount_received is not None else intent.amount
    return Verdict(
        transaction_id=TransactionId(int(ours)),
        intent_id=intent.id,
        status=status,
        amount=amount_of(minor, intent.currency.lower()),
        currency=intent.currency.lower(),
        charge_id=str(charge.get("id")) if isinstance(charge, dict) else charge,
        reason=(error.message if error else None) or "The payment failed."
        if status is Status.FAILED
        else None,
    )


def dump_event(verdict: Verdict) -> bytes:
    """Write a verdict as the event that Stripe would send about it."""
    minor = minor_units(Decimal(verdict.amount), verdict.currency)
    intent = {
        "id": verdict.intent_id,
        "object": "payment_intent",
        "amount": minor,
        "amount_received": minor if verdict.status is Status.SUCCEEDED else 0,
        "currency": verdict.currency,
        "latest_charge": verdict.charge_id,
        "last_payment_error": verdict.reason and {"message": verdict.reason},
        "metadata": {"transactionId": str(verdict.transaction_id)},
    }
    name = _NAMES[verdict.status]
    # One name per decision: told twice, it is the same event.
    key = hashlib.sha256(f"{verdict.intent_id} {name}".encode()).hexdigest()[:24]
    event = {
        "id": f"evt_sandbox_{key}",
        "object": "event",
        "type": name,
        "data": {"object": intent},
    }
    return json.dumps(event).encode()


def sign(raw: bytes, secret: str, *, now: datetime) -> str:
    """Make the header Stripe-Signature."""
    moment = str(int(now.timestamp()))
    return f"t={moment},v1={_hmac(raw, moment, secret)}"


def _hmac(raw: bytes, moment: str, secret: str) -> str:
    return hmac.new(secret.encode(), moment.encode() + b"." + raw, hashlib.sha256).hexdigest()
