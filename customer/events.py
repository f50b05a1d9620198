"""What this house tells others: somebody's membership changed."""

import json
from datetime import datetime
from typing import Final

from cloud.envelope import local_date_time
from cloud.messaging.event import Event
from customer.domain import Membership

EXCHANGE: Final = "customer.exchange"
MEMBERSHIP_CHANGED: Final = "membership.changed"


def membership_changed(
    user_id: int, customer_id: int, membership: Membership, version: int, at: datetime
) -> Event:
    """Tell how things stand now: who hears the highest version of a user knows all."""
    active = membership.is_active(at)
    ends_at = membership.ends_at if active else None
    body = {
        "userId": user_id,
        "customerId": customer_id,
        "active": active,
        "expiresAt": local_date_time(ends_at) if ends_at else None,
        "version": version,
        "occurredAt": local_date_time(at),
    }
    return Event(
        EXCHANGE,
        MEMBERSHIP_CHANGED,
        json.dumps(body, separators=(",", ":")).encode(),
        key=f"membership:{user_id}",
    )
