"""Use cases of notification; what they ask of others is in `ports`."""

from notification.service.delivering import deliver
from notification.service.owning import (
    ADMIN,
    audience,
    delete_of,
    delete_own,
    ensure_owns,
    get_of,
    get_own,
    is_own,
)
from notification.service.telling import ensure_succeeded, tell, tell_many
from notification.service.watching import Watch

__all__ = [
    "ADMIN",
    "Watch",
    "audience",
    "delete_of",
    "delete_own",
    "deliver",
    "ensure_owns",
    "ensure_succeeded",
    "get_of",
    "get_own",
    "is_own",
    "tell",
    "tell_many",
]
