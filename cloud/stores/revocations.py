"""Whether a token was taken back, by the word of identity in Redis, and what holds without it.

The same rule as at the gateway: absence of a revocation proves something only while Redis bears
the mark that identity set on this very run of it (`nozie:identity:epoch`).
"""

import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import redis

from cloud.clock import Clock
from cloud.errors import UnavailableError
from cloud.security import Principal

_REVOKED: Final = "token:blacklist:"
_EPOCH: Final = "nozie:identity:epoch"
_MOST_KEPT: Final = 10_000
# Gives whether absence is to be trusted, then 1 for each of the further keys that is there.
_CHECK: Final = """
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local told = {redis.call('GET', KEYS[1]) == run and 1 or 0}
for i = 2, #KEYS do told[i] = redis.call('EXISTS', KEYS[i]) end
return told
"""


class Revocations:
    """Asks Redis, and remembers what it said while it says nothing.

    Args:
        grace: how long after the last good answer a token that is not known to be revoked passes
            for what is grave, that is for all that changes something.
    """

    def __init__(self, client: redis.Redis, grace: timedelta, now: Clock) -> None:
        self._check: Any = client.register_script(_CHECK)
        self._grace = grace
        self._now = now
        self._lock = threading.Lock()
        self._known: dict[str, datetime] = {}
        self._good = now()

    def is_revoked(self, principal: Principal, *, grave: bool) -> bool:
        """Tell whether the token was revoked.

        Raises:
            UnavailableError: nobody could tell for longer than the grace, and it is grave.
        """
        revoked, sure = self._ask([principal])
        if revoked:
            return True
        if grave and not sure and self._now() - self._good > self._grace:
            raise UnavailableError("Access cannot be checked at the moment")
        return False

    def among(self, principals: Sequence[Principal]) -> frozenset[str]:
        """Return the ids (`jti`) of those tokens that are known to be revoked."""
        return self._ask(principals)[0] if principals else frozenset()

    def _ask(self, principals: Sequence[Principal]) -> tuple[frozenset[str], bool]:
        """Return the revoked ones, and whether the others are surely not."""
        known = frozenset(each.jti for each in principals if each.jti in self._known)
        try:
            epoch, *found = self._check([_EPOCH, *(_REVOKED + each.jti for each in principals)])
        except redis.RedisError:
            return known, False
        fresh = [each for each, there in zip(principals, found, strict=True) if there]
        self._remember(fresh)
        # A JVM identity service, which names no session, sets no mark either.
        sure = bool(epoch) or all(each.sid is None for each in principals)
        if sure:
            self._good = self._now()
        return known | {each.jti for each in fresh}, sure

    def _remember(self, principals: Sequence[Principal]) -> None:
        """Keep them out for the rest of their lives, whatever happens to Redis."""
        with self._lock:
            for each in principals:
                if len(self._known) >= _MOST_KEPT:
                    del self._known[next(iter(self._known))]
                self._known[each.jti] = each.expires_at
