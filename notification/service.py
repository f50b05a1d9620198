"""Use cases of notification, and what they ask of others."""

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from typing import Final, Protocol

import structlog

from cloud.errors import DeadlineError, UnavailableError, UpstreamError
from cloud.security import Principal
from notification.domain import (
    Audience,
    CustomerId,
    Draft,
    Mailbox,
    Notification,
    NotificationId,
    PaymentSucceeded,
    UndecidedPaymentError,
    UnknownCustomerError,
    UnknownNotificationError,
    UserId,
    purchase,
)

log = structlog.get_logger()

ADMIN: Final = "ADMIN"
_NO_ANSWER: Final = (UnavailableError, DeadlineError, UpstreamError)


class Notifications(Protocol):
    """Answered by notification.store.MongoNotifications."""

    def add(self, draft: Draft, *, now: datetime) -> tuple[Notification, bool]: ...
    def find(self, notification_id: NotificationId) -> Notification | None: ...
    def moment_of(self, notification_id: NotificationId) -> datetime | None: ...
    def of_customer(
        self, customer_id: CustomerId, limit: int, *, unread: bool = False
    ) -> list[Notification]: ...
    def count_unread(self, customer_id: CustomerId) -> int: ...
    def of_audience(self, audience: Audience, limit: int) -> list[Notification]: ...
    def since(self, audience: Audience, moment: datetime, limit: int) -> list[Notification]: ...
    def mark_read(self, notification_id: NotificationId, *, now: datetime) -> None: ...
    def mark_all_read(self, audience: Audience, *, now: datetime) -> None: ...
    def delete(self, notification_id: NotificationId) -> None: ...
    def delete_read(self, audience: Audience) -> None: ...


class Announcements(Protocol):
    """Answered by notification.store.Announcements."""

    def announce(
        self, payload: bytes, *, user_id: UserId | None, customer_id: CustomerId | None
    ) -> bool: ...
    def seen(self, key: str) -> bool: ...
    def remember(self, key: str) -> None: ...


class Streams(Protocol):
    """Answered by notification.store.Hub."""

    live: bool

    def reserve(self) -> bool: ...
    def release(self) -> None: ...
    def subscribed(self, mailbox: Mailbox) -> AbstractContextManager[None]: ...


class Customers(Protocol):
    """Answered by notification.clients.CustomerClient."""

    def owns(self, caller: Principal, customer_id: CustomerId) -> bool: ...
    def owned_by(self, caller: Principal) -> frozenset[CustomerId]: ...


class Payments(Protocol):
    """Answered by notification.clients.PaymentClient."""

    def find_status(self, transaction_id: int) -> str | None: ...


Dump = Callable[[Notification], bytes]


def tell(
    draft: Draft,
    *,
    notifications: Notifications,
    announcements: Announcements,
    dump: Dump,
    now: datetime,
) -> Notification:
    """Store a notification and push it; told again, nothing more is stored.

    A process that died between the two is why one that is already stored may still be pushed: the
    push is repeated until it is noted as done. Streams drop what they have sent.
    """
    notification, new = notifications.add(draft, now=now)
    key = draft.dedup_key or notification.id
    if new or not announcements.seen(key):
        told = announcements.announce(
            dump(notification),
            user_id=notification.user_id,
            customer_id=notification.customer_id,
        )
        if told and draft.dedup_key:
            announcements.remember(key)
    log.info("notification_told", notification=notification.id, type=notification.type, new=new)
    return notification


def ensure_succeeded(paid: PaymentSucceeded, payments: Payments, *, last: bool) -> bool:
    """Ask payment-service whether the money came: a JVM one tells of payments it only created.

    Returns:
        False when it did not succeed, and when the last chance to ask brought no decision.

    Raises:
        UndecidedPaymentError: pending, or nobody to ask; the delivery is to be repeated.
    """
    try:
        status = payments.find_status(paid.transaction_id)
    except _NO_ANSWER as error:
        # Not the store's absence, for which a consumer waits with the delivery in hand.
        raise UndecidedPaymentError("payment-service cannot be asked") from error
    if status == "succeeded":
        return True
    if status == "pending" and not last:
        raise UndecidedPaymentError("the payment is pending")
    log.info("payment_not_succeeded", transaction_id=paid.transaction_id, status=status)
    return False


def tell_of_purchase(
    paid: PaymentSucceeded,
    *,
    notifications: Notifications,
    announcements: Announcements,
    dump: Dump,
    now: datetime,
) -> Notification:
    """Tell the buyer that the payment succeeded, once per transaction."""
    return tell(
        purchase(paid), notifications=notifications, announcements=announcements, dump=dump, now=now
    )


def ensure_owns(caller: Principal, customer_id: CustomerId, customers: Customers) -> None:
    """Raise unless the customer record is the caller's, or he is an ADMIN.

    Raises:
        UnknownCustomerError: the same for a foreign record and for none.
    """
    if not caller.has_role(ADMIN) and not customers.owns(caller, customer_id):
        raise UnknownCustomerError("Customer not found")


def audience(caller: Principal, user_id: UserId, customers: Customers) -> Audience:
    """Return whose notifications `user_id` stands for.

    Customer records are found by the caller's own token, so an ADMIN sees of another user what
    names that user.
    """
    if caller.user_id != user_id:
        return Audience(user_id)
    try:
        return Audience(user_id, customers.owned_by(caller))
    except _NO_ANSWER:
        # What names the user is there all the same; only a JVM publisher's notifications are not.
        log.warning("customers_unknown", user=user_id)
        return Audience(user_id)


def get_own(
    notification_id: NotificationId,
    caller: Principal,
    *,
    notifications: Notifications,
    customers: Customers,
) -> Notification:
    """Return a notification of the caller's; any for an ADMIN.

    Raises:
        UnknownNotificationError: the same for a foreign one and for none.
    """
    found = notifications.find(notification_id)
    if found is None or not (caller.has_role(ADMIN) or is_own(found, caller, customers)):
        raise UnknownNotificationError("Notification not found")
    return found


def is_own(notification: Notification, caller: Principal, customers: Customers) -> bool:
    """Tell whether the notification is the caller's own."""
    if notification.user_id is not None:
        return notification.user_id == caller.user_id
    customer_id = notification.customer_id
    return customer_id is not None and customers.owns(caller, customer_id)


def get_of(
    notification_id: NotificationId, audience: Audience, *, notifications: Notifications
) -> Notification:
    """Return a notification of this audience.

    Raises:
        UnknownNotificationError: the same for a foreign one and for none.
    """
    found = notifications.find(notification_id)
    if found is None or not audience.includes(found):
        raise UnknownNotificationError("Notification not found")
    return found


def delete_own(
    notification_id: NotificationId,
    caller: Principal,
    *,
    notifications: Notifications,
    customers: Customers,
) -> None:
    """Delete a notification of the caller's, any for an ADMIN; nothing otherwise."""
    with suppress(UnknownNotificationError):
        found = get_own(notification_id, caller, notifications=notifications, customers=customers)
        notifications.delete(found.id)


def delete_of(
    notification_id: NotificationId, audience: Audience, *, notifications: Notifications
) -> None:
    """Delete a notification of this audience; nothing when there is none."""
    with suppress(UnknownNotificationError):
        notifications.delete(get_of(notification_id, audience, notifications=notifications).id)
