"""Tokens: what a pair holds and how long it lives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from identity.domain import Fresh, Issued, TokenPair


@dataclass(frozen=True, slots=True)
class Tokens:
    """Makes pairs.

    Attributes:
        sign: makes a compact JWT of claims (RFC 7519).
        new_id: gives a random UUID as text.
    """

    access_lifetime: timedelta
    refresh_lifetime: timedelta
    sign: Callable[[Mapping[str, Any]], str]
    new_id: Callable[[], str]

    def fresh(self, now: datetime) -> Fresh:
        """Draw the secrets of a pair; ends are whole seconds, as claim `exp` tells them."""
        start = now.replace(microsecond=0)
        return Fresh(
            refresh_token=f"{self.new_id()}-{self.new_id()}",
            jti=self.new_id(),
            access_expires_at=start + self.access_lifetime,
            refresh_expires_at=start + self.refresh_lifetime,
        )

    def pair(self, issued: Issued, fresh: Fresh, now: datetime) -> TokenPair:
        """Sign the access token of a session."""
        user = issued.user
        claims = {
            "jti": fresh.jti,
            "sub": str(user.id),
            "username": user.username,
            "roles": sorted(user.roles),
            "permissions": sorted(user.permissions),
            "type": "ACCESS",
            "sid": str(issued.session.id),
            "iat": int(now.timestamp()),
            "exp": int(fresh.access_expires_at.timestamp()),
        }
        if user.email:
            claims["email"] = user.email
        return TokenPair(self.sign(claims), fresh.refresh_token, self.access_lifetime, user)
