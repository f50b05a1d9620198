"""Messages in, one use case, an acknowledgement out."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog

from cloud.errors import InvalidError
from cloud.messaging.consumer import Delivery, Hopeless, Later
from cloud.schema import parse_json
from notification import service
from notification.deps import Deps
from notification.domain import (
    EMAIL,
    PUSH,
    Draft,
    PaymentSucceeded,
    RefusedLetterError,
    UndecidedPaymentError,
    greeting,
    notice,
    purchase,
    receipt,
    welcome,
)
from notification.schema import (
    NotificationRequestedEvent,
    UserCreatedEvent,
    dump_push,
    parse_letter,
    parse_payment,
)

log = structlog.get_logger()

# Written by a publisher that tells only of money that came (ours). Whoever may publish to the
# broker is inside the estate: the header tells publishers apart, it is no proof against a forger.
STATUS = "x-payment-status"
_LAST_ATTEMPT = 4
# A slow payment-service must not keep a whole batch from being stored.
_ASKING: Final = timedelta(seconds=10)
_SOON: Final = timedelta(seconds=1)


def on_payments(deliveries: Sequence[Delivery], deps: Deps) -> list[Exception | None]:
    """`payment.succeeded`: each buyer is told, once per transaction; one write for all."""
    verdicts: list[Exception | None] = []
    paid: list[PaymentSucceeded] = []
    unanswered: Exception | None = None
    until = deps.now() + _ASKING
    for delivery in deliveries:
        try:
            found = _paid(delivery, deps, unanswered)
        except (Hopeless, Later) as error:
            verdicts.append(error)
        except UndecidedPaymentError as error:
            # Nobody to ask: the next of this batch would wait for nothing, too.
            unanswered = error if error.__cause__ else None
            verdicts.append(error)
        else:
            verdicts.append(None)
            if found is not None:
                paid.append(found)
        if unanswered is None and deps.now() > until:
            unanswered = Later(_SOON)
    if paid:
        now = deps.now()
        _tell([purchase(each) for each in paid], deps, now)
        deps.post.send([letter for each in paid for letter in receipt(each, now)])
    return verdicts


def _paid(delivery: Delivery, deps: Deps, unanswered: Exception | None) -> PaymentSucceeded | None:
    try:
        paid = parse_payment(delivery.body)
    except InvalidError as error:
        raise Hopeless(_reason(error)) from error
    if paid.user_id is None and paid.customer_id is None:
        raise Hopeless("neither customerId nor userId: nobody to tell")
    if deps.settings.trust_payment_events or delivery.headers.get(STATUS) == "succeeded":
        return paid
    if unanswered is not None:
        raise unanswered
    last = delivery.attempt >= _LAST_ATTEMPT
    return paid if service.ensure_succeeded(paid, deps.payments, last=last) else None


def on_user_created(delivery: Delivery, deps: Deps) -> None:
    """`user.created`: a new user is greeted, in the list and by mail, once."""
    try:
        event = UserCreatedEvent.parse(parse_json(delivery.body))
    except InvalidError as error:
        raise Hopeless(_reason(error)) from error
    now = deps.now()
    _tell([welcome(event.user_id, event.username)], deps, now)
    if event.email:
        deps.post.send([greeting(event.user_id, event.username, event.email, now)])


def on_requested(delivery: Delivery, deps: Deps) -> None:
    """`notification.requested`: the named template goes out by the named channel, once.

    What concerns the account's safety is told in the user's list as well.
    """
    try:
        event = NotificationRequestedEvent.parse(parse_json(delivery.body))
    except InvalidError as error:
        raise Hopeless(_reason(error)) from error
    draft = event.user_id and notice(
        event.template, event.user_id, event.customer_id, event.dedup_key
    )
    now = deps.now()
    if draft:
        _tell([draft], deps, now)
    if event.channel in {EMAIL, PUSH}:
        if not deps.templates.knows(event.template, event.channel):
            raise Hopeless(f"no template {event.template!r} for {event.channel}")
        deps.post.send([event.letter(now)])
    elif event.channel != "inapp":
        raise Hopeless(f"no channel {event.channel!r}")
    elif not draft:
        raise Hopeless(f"no template {event.template!r} for the list, or no userId")


def on_letter(delivery: Delivery, deps: Deps) -> None:
    """A letter of ours: one channel brings it to one person."""
    try:
        letter = parse_letter(delivery.body)
    except InvalidError as error:
        raise Hopeless(_reason(error)) from error
    try:
        service.deliver(
            letter,
            channel=deps.channels.get(letter.channel),
            templates=deps.templates,
            customers=deps.customers,
            devices=deps.devices,
            preferences=deps.preferences,
            deliveries=deps.deliveries,
            now=deps.now,
        )
    except RefusedLetterError as error:
        raise Hopeless(str(error)) from error


def _tell(drafts: list[Draft], deps: Deps, now: datetime) -> None:
    try:
        service.tell_many(
            drafts,
            notifications=deps.notifications,
            announcements=deps.announcements,
            dump=dump_push,
            now=now,
        )
    except InvalidError as error:
        raise Hopeless(_reason(error)) from error


def _reason(error: InvalidError) -> str:
    fields = ", ".join(f"{name} {reason}" for name, reason in error.fields.items())
    return f"{error}: {fields}" if fields else str(error)
