"""Role VIP follows the membership that customer-service keeps."""

from datetime import datetime
from typing import Protocol

from identity.domain import Membership, Regranted
from identity.service.sessions import Live


class Memberships(Protocol):  # answered by identity.store.SqlMemberships
    """What was told of each user's membership last."""

    def follow(self, told: Membership) -> Regranted | None: ...


def follow_membership(
    told: Membership, *, memberships: Memberships, live: Live, now: datetime
) -> bool:
    """Give or take back the role; False when that changes nothing, as with a word heard before.

    Raises:
        UnknownUserError: there is no such account.
    """
    changed = memberships.follow(told)
    if changed is not None:
        live.regranted(changed, now)
    return changed is not None
