"""Use cases: somebody is told something."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

import structlog

from cloud.errors import DeadlineError, UnavailableError, UpstreamError
from notification.domain import Draft, Notification, PaymentSucceeded, UndecidedPaymentError
from notification.service.ports import Announcements, Notifications, Payments

log = structlog.get_logger()

NO_ANSWER: Final = (UnavailableError, DeadlineError, UpstreamError)
Dump = Callable[[Notification], bytes]


def tell_many(
    drafts: Sequence[Draft],
    *,
    notifications: Notifications,
    announcements: Announcements,
    dump: Dump,
    now: datetime,
) -> list[Notification]:
    """Store notifications and push them; told again, nothing more is stored.

    A process that died between the two is why one that is already stored may still be pushed: the
    push is repeated until it is noted as done. Streams drop what they have sent.
    """
    stored = notifications.add_many(drafts, now=now)
    keys = [draft.dedup_key for draft in drafts]
    doubles = [key for key, (_, new) in zip(keys, stored, strict=True) if key and not new]
    seen = announcements.seen(doubles) if doubles else frozenset()
    announcements.announced(
        (notification, dump(notification), key)
        for key, (notification, new) in zip(keys, stored, strict=True)
        if new or key not in seen
    )
    new = sum(new for _, new in stored)
    log.info("notifications_told", count=len(stored), new=new)
    return [notification for notification, _ in stored]


def tell(
    draft: Draft,
    *,
    notifications: Notifications,
    announcements: Announcements,
    dump: Dump,
    now: datetime,
) -> Notification:
    """Store one notification and push it."""
    (told,) = tell_many(
        [draft], notifications=notifications, announcements=announcements, dump=dump, now=now
    )
    return told


def ensure_succeeded(paid: PaymentSucceeded, payments: Payments, *, last: bool) -> bool:
    """Ask payment-service whether the money came: a JVM one tells of payments it only created.

    Returns:
        False when it did not succeed, and when the last chance to ask brought no decision.

    Raises:
        UndecidedPaymentError: pending, or nobody to ask; the delivery is to be repeated.
    """
    try:
        status = payments.find_status(paid.transaction_id)
    except NO_ANSWER as error:
        # Not the store's absence, for which a consumer waits with the delivery in hand.
        raise UndecidedPaymentError("payment-service cannot be asked") from error
    if status == "succeeded":
        return True
    if status == "pending" and not last:
        raise UndecidedPaymentError("the payment is pending")
    log.info("payment_not_succeeded", transaction_id=paid.transaction_id, status=status)
    return False
