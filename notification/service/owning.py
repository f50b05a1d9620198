"""Use cases: whose a notification is, and what its owner does with it."""

from contextlib import suppress
from typing import Final

import structlog

from cloud.security import Principal
from notification.domain import (
    Audience,
    CustomerId,
    Notification,
    NotificationId,
    UnknownCustomerError,
    UnknownNotificationError,
    UserId,
)
from notification.service.ports import Customers, Notifications
from notification.service.telling import NO_ANSWER

log = structlog.get_logger()

ADMIN: Final = "ADMIN"


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
    except NO_ANSWER:
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
