"""Revocation and limits in one round trip to Redis, and what holds while Redis is away."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Protocol

from cloud.errors import ThrottledError, UnauthenticatedError, UnavailableError
from gateway.exchange import Script
from gateway.handler.access import Access, Windows
from gateway.handler.tokens import Identity
from gateway.settings import Limits

# Identity names here the run of Redis that holds every live revocation. Elsewhere (a Redis that
# lost its memory) the absence of a key proves nothing.
EPOCH = "nozie:identity:epoch"
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

    def __init__(self, store: Store, now: Callable[[], float], share: int = 1) -> None:
        self._store = store
        self._now = now
        self._share = share
        self._windows = Windows()
        self._revoked: dict[str, float] = {}
        self._good = now()

    async def check(
        self,
        method: str,
        client: str,
        identity: Identity | None,
        access: Access,
        limits: Limits,
        grace_s: float,
    ) -> None:
        """Let a request pass.

        Raises:
            UnauthenticatedError: its token was revoked.
            ThrottledError: too many of its kind.
            UnavailableError: nobody can tell, for too long, whether its token was revoked.
        """
        revoked_key = identity.revoked_key if identity is not None else ""
        if revoked_key in self._revoked:
            raise UnauthenticatedError("Token has been revoked")
        bucket, limit = _limit(client, identity, access, limits)
        if not (revoked_key or bucket):
            return
        try:
            revoked, known, count = await self._store.run(
                CHECK, (EPOCH, revoked_key, bucket), (self._store.run_id, limits.window_s, limit)
            )
        except UnavailableError:
            revoked, known, limit = 0, 0, -(-limit // self._share)
            window = timedelta(seconds=limits.window_s)
            count = self._windows.count(bucket, window, self._now()) if bucket else 0
            # Which issuer it is does not matter now: nothing at all is known.
            self._ensure_recent(method, identity, access, grace_s)
        else:
            if revoked and identity is not None:
                self._remember(identity)
                raise UnauthenticatedError("Token has been revoked")
            self._learn(known, method, identity, access, grace_s)
        if bucket and count > limit:
            raise ThrottledError("Too many requests", timedelta(seconds=limits.window_s))

    def _learn(
        self, known: int, method: str, identity: Identity | None, access: Access, grace_s: float
    ) -> None:
        # An issuer that keeps no sessions keeps no epoch either, and then absence is all there is.
        if known or identity is None or identity.principal.sid is None:
            self._good = self._now()
        else:
            self._ensure_recent(method, identity, access, grace_s)

    def _ensure_recent(
        self, method: str, identity: Identity | None, access: Access, grace_s: float
    ) -> None:
        if identity is None or self._now() - self._good <= grace_s:
            return
        if access.roles or method not in _READS:
            raise UnavailableError("Access cannot be checked at the moment")

    def _remember(self, identity: Identity) -> None:
        """Keep it out for the rest of its life, whatever happens to Redis."""
        if len(self._revoked) >= 10_000:  # noqa: PLR2004 - some hundred bytes each
            self._revoked.pop(next(iter(self._revoked)))
        self._revoked[identity.revoked_key] = identity.expires_at


def _limit(
    client: str, identity: Identity | None, access: Access, limits: Limits
) -> tuple[str, int]:
    if not access.counted:
        return "", 0
    if access.rule is not None:
        return f"ratelimit:{access.rule.bucket}:{client}", access.rule.limit
    if identity is not None:
        return identity.bucket, limits.user
    return f"ratelimit:ip:{client}", limits.ip
