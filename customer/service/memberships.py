"""Memberships: begun and extended by a paid plan, taken back by a refund, set by an ADMIN."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog

from cloud.errors import DeadlineError, UnavailableError, UpstreamError
from cloud.security import Principal
from customer.domain import Customer, PlanPayment, UndecidedPaymentError, UnknownPlanError

log = structlog.get_logger()

_NO_ANSWER: Final = (UnavailableError, UpstreamError, DeadlineError)


class Memberships(Protocol):  # answered by customer.store.SqlMemberships
    """What the use cases ask of memberships; each transaction counts once, whatever comes twice."""

    def extend(self, paid: PlanPayment, length: timedelta, *, now: datetime) -> str: ...
    def take_back(self, paid: PlanPayment, *, now: datetime) -> str: ...
    def set(self, customer_id: int, *, subscribed: bool, now: datetime) -> Customer: ...


class Payments(Protocol):  # answered by customer.clients.PaymentClient
    """Transactions as payment-service knows them."""

    def find_status(self, transaction_id: int) -> str | None: ...


def pay(
    paid: PlanPayment,
    *,
    trusted: bool,
    memberships: Memberships,
    payments: Payments,
    lengths: Mapping[str, timedelta],
    now: datetime,
) -> str:
    """Extend the membership by what was paid for, and tell what was done.

    Args:
        paid: the length that its publisher sold goes before the configured one.
        trusted: whether the publisher tells only of money that came. A JVM one tells of payments
            that it has merely created, so payment-service is asked.
        memberships: where it is kept.
        payments: whom to ask.
        lengths: of the plans, by name.
        now: the instant from which it counts when no membership runs.

    Raises:
        UndecidedPaymentError: pending, or nobody to ask; the event is to be repeated.
        UnknownPlanError: neither the event nor the configuration knows its length.
        UnknownCustomerError: nobody's record.
    """
    if not trusted and not _succeeded(paid, payments):
        return "not_paid"
    length = paid.length or lengths.get(paid.plan)
    if length is None:
        raise UnknownPlanError(paid.plan)
    return memberships.extend(paid, length, now=now)


def give_back(paid: PlanPayment, *, memberships: Memberships, now: datetime) -> str:
    """Take back what is left of the time that was paid for, and tell what was done."""
    return memberships.take_back(paid, now=now)


def set_subscription(
    customer_id: int,
    *,
    subscribed: bool,
    caller: Principal,
    memberships: Memberships,
    now: datetime,
) -> Customer:
    """Begin a membership without an end, or end whichever runs; who did it is logged.

    Raises:
        UnknownCustomerError: there is no such record.
    """
    changed = memberships.set(customer_id, subscribed=subscribed, now=now)
    log.info("subscription_set", customer_id=customer_id, subscribed=subscribed, by=caller.user_id)
    return changed


def _succeeded(paid: PlanPayment, payments: Payments) -> bool:
    try:
        status = payments.find_status(paid.transaction_id)
    except _NO_ANSWER as error:
        # Not the store's absence, for which a consumer waits with the delivery in hand.
        raise UndecidedPaymentError("payment-service cannot be asked") from error
    if status == "pending":
        raise UndecidedPaymentError("the payment is pending")
    if status != "succeeded":
        log.warning("payment_not_succeeded", transaction_id=paid.transaction_id, status=status)
    return status == "succeeded"
