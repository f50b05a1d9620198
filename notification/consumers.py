"""Messages in, one use case, an acknowledgement out."""

import structlog

from cloud.errors import InvalidError
from cloud.messaging.consumer import Delivery, Hopeless
from cloud.schema import parse_json
from notification import service
from notification.deps import Deps
from notification.domain import Draft, notice, welcome
from notification.schema import (
    NotificationRequestedEvent,
    UserCreatedEvent,
    dump_push,
    parse_payment,
)

log = structlog.get_logger()

# Written by a publisher that tells only of money that came (ours). Whoever may publish to the
# broker is inside the estate: the header tells publishers apart, it is no proof against a forger.
STATUS = "x-payment-status"
_LAST_ATTEMPT = 4


def on_payment(delivery: Delivery, deps: Deps) -> None:
    """`payment.succeeded`: the buyer is told, once per transaction."""
    try:
        paid = parse_payment(delivery.body)
    except InvalidError as error:
        raise Hopeless(_reason(error)) from error
    if paid.user_id is None and paid.customer_id is None:
        raise Hopeless("neither customerId nor userId: nobody to tell")
    trusted = deps.settings.trust_payment_events or delivery.headers.get(STATUS) == "succeeded"
    last = delivery.attempt >= _LAST_ATTEMPT
    if trusted or service.ensure_succeeded(paid, deps.payments, last=last):
        service.tell_of_purchase(
            paid,
            notifications=deps.notifications,
            announcements=deps.announcements,
            dump=dump_push,
            now=deps.now(),
        )


def on_user_created(delivery: Delivery, deps: Deps) -> None:
    """`user.created`: a new user is greeted, once."""
    try:
        event = UserCreatedEvent.parse(parse_json(delivery.body))
    except InvalidError as error:
        raise Hopeless(_reason(error)) from error
    _tell(welcome(event.user_id, event.username), deps)


def on_requested(delivery: Delivery, deps: Deps) -> None:
    """`notification.requested`: a notice that we have words for goes into the user's list.

    Mail and device push are not configured in this service; what asks for them is told here too.
    """
    try:
        event = NotificationRequestedEvent.parse(parse_json(delivery.body))
    except InvalidError as error:
        raise Hopeless(_reason(error)) from error
    draft = event.user_id and notice(
        event.template, event.user_id, event.customer_id, event.dedup_key
    )
    if draft:
        _tell(draft, deps)
    if not draft or event.channel != "inapp":
        log.warning("channel_not_configured", channel=event.channel, template=event.template)


def _tell(draft: Draft, deps: Deps) -> None:
    service.tell(
        draft,
        notifications=deps.notifications,
        announcements=deps.announcements,
        dump=dump_push,
        now=deps.now(),
    )


def _reason(error: InvalidError) -> str:
    fields = ", ".join(f"{name} {reason}" for name, reason in error.fields.items())
    return f"{error}: {fields}" if fields else str(error)
