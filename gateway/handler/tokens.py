"""Access tokens: verified once, then known until they expire."""

import re
from dataclasses import dataclass
from datetime import datetime

from cloud.clock import Clock
from cloud.errors import UnauthenticatedError
from cloud.security import Principal, bearer, verify
from gateway.exchange import Headers

_UNSAFE = re.compile(r"[\x00-\x1f\x7f]")
# Three parts of base64url (RFC 7515 section 7.1): what decoders pass over would make endlessly many
# spellings of one token.
_COMPACT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)


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
    """A bounded memory of verified tokens; who holds only bad ones costs no memory.

    A token has one place in it, however its header is spelled. When it is full what has expired
    goes, then what came first.
    """

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
        token = bearer(authorization.decode("latin-1") if authorization is not None else None)
        if not _COMPACT.fullmatch(token):
            raise UnauthenticatedError("Token is invalid")
        key = b"Bearer " + token.encode()
        found = self._known.get(key)
        if found is not None and found.principal.expires_at > now:
            return found
        principal = verify(token, self._secret, now=now)
        if len(self._known) >= self._capacity:
            self._make_room(now)
        identity = self._known[key] = _identity(principal)
        return identity

    def _make_room(self, now: datetime) -> None:
        """Forget a tenth at least: looking through all of them must be rare."""
        live = [(k, one) for k, one in self._known.items() if one.principal.expires_at > now]
        most = self._capacity - max(1, self._capacity // 10)
        self._known = dict(live[max(0, len(live) - most) :])


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
