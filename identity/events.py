"""What this house tells others: an account was created; somebody must be warned."""

import json
from datetime import datetime
from typing import Final

from cloud.envelope import local_date_time
from cloud.messaging.event import Event
from identity.domain import SessionId, User

EXCHANGE: Final = "identity.exchange"
NOTICES: Final = "notification.exchange"
USER_CREATED: Final = "user.created"
NOTICE_REQUESTED: Final = "notification.requested"


def user_created(user: User, at: datetime) -> Event:
    """Tell customer- and notification-service that there is a new account."""
    body = {
        "userId": user.id,
        "username": user.username,
        "email": user.email,
        "occurredAt": local_date_time(at),
    }
    return Event(EXCHANGE, USER_CREATED, _json(body), key=f"user:{user.id}")


def reuse_noticed(user: User, session_id: SessionId, at: datetime) -> Event:
    """Ask for a security notice: a refresh token was used twice, so one holder is not the user."""
    body = {
        "userId": user.id,
        "customerId": None,
        "channel": "email" if user.email else "inapp",
        "template": "security-refresh-token-reuse",
        "to": user.email,
        "params": {"username": user.username, "occurredAt": local_date_time(at)},
        "dedupKey": f"security-refresh-token-reuse:{session_id}",
    }
    # A key of its own: that nobody may listen for notices must not hold up what else is told.
    return Event(NOTICES, NOTICE_REQUESTED, _json(body), key=f"notice:{session_id}")


def _json(body: object) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
