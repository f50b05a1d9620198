"""Access tokens: verified once, then known until they expire."""

import re
from dataclasses import dataclass

from cloud.clock import Clock
from cloud.security import Principal, bearer, verify
from gateway.exchange import Headers

_UNSAFE = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Identity:
    """A principal, with what every request of his needs ready-made.

    Attributes:
        expires_at: epoch seconds.
        headers: X-User-* for the upstream.
    """

    principal: Principal
    expires_at: float
    headers: Headers
    revoked_key: str
    bucket: str


class Tokens:
    """A bounded memory of verified tokens; who holds only bad ones costs no memory."""

    def __init__(self, secret: str, clock: Clock, capacity: int = 20_000) -> None:
        self._secret = secret
        self._clock = clock
        self._capacity = capacity
        self._known: dict[bytes, Identity] = {}

    def identify(self, authorization: bytes | None) -> Identity:
        """Tell who calls.

        Raises:
            UnauthenticatedError: header missing, scheme not Bearer, token expired or invalid.
        """
        now = self._clock()
        found = self._known.get(authorization or b"")
        if found is not None and found.principal.expires_at > now:
            return found
        text = authorization.decode("latin-1") if authorization is not None else None
        principal = verify(bearer(text), self._secret, now=now)
        if len(self._known) >= self._capacity:
            self._known.pop(next(iter(self._known)))
        identity = self._known[authorization or b""] = _identity(principal)
        return identity


def _identity(principal: Principal) -> Identity:
    return Identity(
        principal,
        principal.expires_at.timestamp(),
        [
            (b"x-user-id", str(principal.user_id).encode()),
            (b"x-user-name", _clean(principal.username)),
            (b"x-user-roles", _clean(",".join(sorted(principal.roles)))),
            (b"x-user-permissions", _clean(",".join(sorted(principal.permissions)))),
        ],
        f"token:blacklist:{principal.jti}",
        f"ratelimit:user:{principal.user_id}",
    )


def _clean(text: str) -> bytes:
    """Keep a name from ending its header line."""
    return _UNSAFE.sub("", text).encode()
