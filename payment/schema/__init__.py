"""Shapes of payment's bodies: `parse` on the way in, `dump_*` on the way out."""

from payment.schema.bodies import (
    CheckoutRequest,
    LibraryRequest,
    PaymentRequest,
    ProcessRequest,
    dump_charged,
    dump_checkout,
    dump_client_transaction,
    dump_poll,
    dump_purchase,
    dump_started,
    dump_transaction,
)
from payment.schema.webhook import dump_event, parse_event, sign

__all__ = [
    "CheckoutRequest",
    "LibraryRequest",
    "PaymentRequest",
    "ProcessRequest",
    "dump_charged",
    "dump_checkout",
    "dump_client_transaction",
    "dump_event",
    "dump_poll",
    "dump_purchase",
    "dump_started",
    "dump_transaction",
    "parse_event",
    "sign",
]
