"""Revocation and limits in one round trip to Redis, and what holds while Redis is away."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from ipaddress import IPv6Address
from typing import Any, Protocol

from cloud.errors import ThrottledError, UnauthenticatedError, UnavailableError
from cloud.security import address_of
from gateway.exchange import Script
from gateway.handler.access import Access, Windows
from gateway.handler.memory import Memory, Revocation
from gateway.handler.tokens import Identity
from gateway.settings import Limits

# Identity names here the run of Redis that holds every live revocation. Elsewhere (a Redis that
# lost its memory) the absence of a key proves nothing.
EPOCH = "nozie:identity:epoch"
# Identity notes here what it revokes, as it goes: known to all gateways before anybody asks.
REVOCATIONS = "nozie:identity:revocations"
_HOST_BITS = 64
_READS = frozenset({"GET", "HEAD", "OPTIONS"})

# KEYS: epoch, revoked token, counter (each may be empty). ARGV: run id, window in seconds, limit.
# Gives: revoked, whether absence is to be trusted, count. A revoked token is not counted.
CHECK = Script(
    """
if KEYS[2] ~= '' and redis.call('EXISTS', KEYS[2]) == 1 then return {1, 1, 0} end
local known = redis.call('GET', KEYS[1]) == ARGV[1] and 1 or 0
if KEYS[3] == '' then return {0, known, 0} end
local count = redis.call('INCR', KEYS[3])
if count == 1 or (count > tonumber(ARGV[3]) and redis.call('TTL', KEYS[3]) < 0) then
  redis.call('EXPIRE', KEYS[3], ARGV[2])
end
return {0, known, count}
"""
)

# KEYS: epoch, revocations. ARGV: run id, the last entry read ("-" for none), most entries.
LEARN = Script(
    """
local known = redis.call('GET', KEYS[1]) == ARGV[1] and 1 or 0
return {known, redis.call('XRANGE', KEYS[2], ARGV[2], '+', 'COUNT', ARGV[3])}
"""
)
_AT_ONCE = 1000


class Store(Protocol):
    """Redis, as far as the guard needs it; `run_id` names the server's present life."""

    run_id: str

    def run(
        self, script: Script, keys: Sequence[bytes | str], args: Sequence[bytes | str | int]
    ) -> Awaitable[Any]: ...


class Guard:
    """Keeps out revoked tokens and those who ask too often.

    `now` is monotonic, in seconds; `share` is the number of workers among which the limits are
    divided while each counts for itself.
    """

    def __init__(
        self, store: Store, memory: Memory, now: Callable[[], float], share: int = 1
    ) -> None:
        self._store = store
        self._memory = memory
        self._now = now
        self._share = share
        self._windows = Windows()
        self._read = ("", "-")
        self._run = ""

    async def check(
        self,
        method: str,
        client: str,
        identity: Identity | None,
        access: Access,
        limits: Limits,
        grace_s: float,
    ) -> Identity | None:
        """Let a request pass; gives who it is to be taken for.

        On a public path a token that nobody can vouch for any more is no token.

        Raises:
            UnauthenticatedError: its token was revoked.
            ThrottledError: too many of its kind.
            UnavailableError: nobody can tell, for too long, whether its token was revoked.
        """
        revoked_key = ""
        if identity is not None:
            revoked_key = identity.revoked_key
            self._ensure_not_known(identity)
        bucket, limit = _limit(client, identity, access, limits)
        if not (revoked_key or bucket):
            return None
        try:
            revoked, known, count = await self._store.run(
                CHECK, (EPOCH, revoked_key, bucket), (self._store.run_id, limits.window_s, limit)
            )
        except UnavailableError:
            limit = -(-limit // self._share)
            window = timedelta(seconds=limits.window_s)
            count = self._windows.count(bucket, window, self._now()) if bucket else 0
            # Which issuer it is does not matter now: nothing at all is known.
            identity = self._unless_known(method, identity, access, grace_s)
        else:
            if revoked and identity is not None:
                self._memory.add([(identity.principal.jti, identity.expires_at)])
                raise UnauthenticatedError("Token has been revoked")
            if known:
                self._memory.believed()
            elif self._absence_is_all(identity):
                self._memory.heard()
            else:
                identity = self._unless_known(method, identity, access, grace_s)
        if bucket and count > limit:
            raise ThrottledError("Too many requests", timedelta(seconds=limits.window_s))
        return identity

    def _absence_is_all(self, identity: Identity | None) -> bool:
        """Tell whether the issuer keeps no sessions, and so no epoch either.

        Then a key that is not there must do. Of a Redis that was restarted the instance knows
        more: what other workers were told is looked up once.
        """
        if identity is None or identity.principal.sid is not None:
            return False
        if self._run != self._store.run_id:
            self._run = self._store.run_id
            self._memory.catch_up()
        self._ensure_not_known(identity)
        return True

    def _ensure_not_known(self, identity: Identity) -> None:
        if identity.principal.jti in self._memory:
            raise UnauthenticatedError("Token has been revoked")

    def _unless_known(
        self, method: str, identity: Identity | None, access: Access, grace_s: float
    ) -> Identity | None:
        """Go by what the instance knows: no worker may believe what another knows better."""
        if identity is None:
            return None
        self._memory.catch_up()
        self._ensure_not_known(identity)
        grave = bool(access.roles) or method not in _READS
        sessions = identity.principal.sid is not None
        if grave and self._memory.doubtful_for_s(sessions=sessions) > grace_s:
            if access.public and not access.roles:
                return None
            raise UnavailableError("Access cannot be checked at the moment")
        return identity

    async def learn(self) -> None:
        """Take over what identity has revoked, and other workers were told, since the last time.

        Raises:
            UnavailableError: Redis is away.
        """
        self._memory.catch_up()
        more = True
        while more:
            run, last = self._read
            run_id = self._store.run_id
            after = f"({last}" if last != "-" and run == run_id else "-"
            known, entries = await self._store.run(
                LEARN, (EPOCH, REVOCATIONS), (run_id, after, _AT_ONCE)
            )
            self._memory.add(_revocation(fields) for _, fields in entries)
            if entries:
                self._read = (run_id, entries[-1][0].decode())
            if known:
                self._memory.believed()
            more = len(entries) == _AT_ONCE


def _revocation(fields: Sequence[bytes]) -> Revocation:
    told = dict(zip(fields[::2], fields[1::2], strict=True))
    return told[b"jti"].decode(), float(told[b"exp"])


def _limit(
    client: str, identity: Identity | None, access: Access, limits: Limits
) -> tuple[str, int]:
    if not access.counted:
        return "", 0
    if access.rule is not None:
        return f"ratelimit:{access.rule.bucket}:{_household(client)}", access.rule.limit
    if identity is not None:
        return identity.bucket, limits.user
    return f"ratelimit:ip:{_household(client)}", limits.ip


def _household(client: str) -> str:
    """Name whom a limit per address is for: of IPv6 whoever has a /64 has all its addresses."""
    if ":" not in client:
        return client
    found = address_of(client)
    if not isinstance(found, IPv6Address):
        return str(found or client)
    return str(IPv6Address(int(found) >> _HOST_BITS << _HOST_BITS))
