"""Events in, one use case, an acknowledgement out."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from cloud.clock import Clock
from cloud.errors import InvalidError
from cloud.messaging.consumer import Delivery, Hopeless
from cloud.schema import parse_json
from customer import service
from customer.domain import PlanPayment
from customer.schema import UserCreated, parse_plan_payment
from customer.service import Customers, Memberships, Payments

log = structlog.get_logger()

QUEUE: Final = "identity.customer.queue"
BINDINGS: Final = (("identity.exchange", "user.created"),)
PAYMENT_QUEUE: Final = "payment.subscription.queue"
REFUNDED: Final = "payment.refunded"
# The second exchange is what a JVM publisher tells.
PAYMENT_BINDINGS: Final = tuple(
    (exchange, key)
    for key in ("payment.succeeded", REFUNDED)
    for exchange in ("payment-exchange", "payment.exchange")
)
# Written by a publisher that tells only of what happened (ours). Whoever may publish to the broker
# is inside the estate: the header tells publishers apart, it is no proof against a forger.
STATUS: Final = "x-payment-status"


@dataclass(frozen=True, slots=True)
class Sale:
    """What payment events lean on."""

    memberships: Memberships
    payments: Payments
    plans: Mapping[str, timedelta]
    trusted: bool
    now: Clock


def user_created(delivery: Delivery, *, customers: Customers, now: Clock) -> None:
    """Give a new user his record, or link the one that has his e-mail.

    Raises:
        Hopeless: the body is not the event.
    """
    try:
        event = UserCreated.parse(parse_json(delivery.body))
    except InvalidError as error:
        raise Hopeless(f"{error} {sorted(error.fields)}") from error
    outcome = customers.welcome(event.user_id, event.email, now=now())
    log.info("user_welcomed", user_id=event.user_id, outcome=outcome)


def payment_told(delivery: Delivery, sale: Sale) -> None:
    """Extend a membership when a plan was paid for, take it back when the money went back.

    Raises:
        Hopeless: the body is not the event, or a refund comes from nobody that we know: a JVM
            service gives nothing back, and cannot be asked whether it did.
    """
    try:
        paid = parse_plan_payment(delivery.body)
    except InvalidError as error:
        raise Hopeless(f"{error} {sorted(error.fields)}") from error
    if paid is None:
        return
    outcome = _act(delivery, paid, sale)
    log.info(
        "membership_event",
        routing_key=delivery.routing_key,
        transaction_id=paid.transaction_id,
        plan=paid.plan,
        outcome=outcome,
    )


def _act(delivery: Delivery, paid: PlanPayment, sale: Sale) -> str:
    refunded = delivery.routing_key == REFUNDED
    word = "refunded" if refunded else "succeeded"
    trusted = sale.trusted or delivery.headers.get(STATUS) == word
    if not refunded:
        return service.pay(
            paid,
            trusted=trusted,
            memberships=sale.memberships,
            payments=sale.payments,
            lengths=sale.plans,
            now=sale.now(),
        )
    if not trusted:
        raise Hopeless("a refund without the word of its publisher")
    return service.give_back(paid, memberships=sale.memberships, now=sale.now())
