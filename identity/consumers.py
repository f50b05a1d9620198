"""Events in, one use case, an acknowledgement out."""

from typing import Final

import structlog

from cloud.clock import Clock
from cloud.errors import InvalidError
from cloud.messaging.consumer import Delivery, Hopeless
from cloud.schema import parse_json
from identity import service
from identity.domain import Membership, UnknownUserError, UserId
from identity.schema import MembershipChanged
from identity.service import Live, Memberships

log = structlog.get_logger()

QUEUE: Final = "customer.identity.queue"
BINDINGS: Final = (("customer.exchange", "membership.changed"),)


def membership_changed(
    delivery: Delivery, *, memberships: Memberships, live: Live, now: Clock
) -> None:
    """Let role VIP follow a membership.

    Raises:
        Hopeless: the body is not the event.
    """
    try:
        event = MembershipChanged.parse(parse_json(delivery.body))
    except InvalidError as error:
        raise Hopeless(f"{error} {sorted(error.fields)}") from error
    heard_at = now()
    told = Membership(UserId(event.user_id), event.version, event.active, heard_at)
    try:
        changed = service.follow_membership(told, memberships=memberships, live=live, now=heard_at)
    except UnknownUserError:
        # Whoever is gone has no role to lose, and gets none.
        changed = False
    log.info(
        "membership_heard",
        user_id=event.user_id,
        active=event.active,
        version=event.version,
        changed=changed,
    )
