"""Idempotency keys: who claimed one, and what was answered (Stripe's semantics)."""

from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from cloud.stores.postgres import autocommit, delete_all
from payment.domain import KeptAnswer, KeyInFlightError, KeyReusedError
from payment.store.tables import keys, naive

# Statements of the busiest way are built once: to build one costs more than to send it.
_FRESH: Final = insert(keys)
_CLAIM: Final = _FRESH.on_conflict_do_update(
    index_elements=[keys.c.user_id, keys.c.key],
    set_={"claimed_at": _FRESH.excluded.claimed_at},
    where=keys.c.status.is_(None)
    & (keys.c.claimed_at < sa.bindparam("lost_before"))
    & (keys.c.request_hash == _FRESH.excluded.request_hash),
).returning(keys.c.key)
# A claim that nobody has taken over since: a late finisher changes nothing.
_MINE: Final = (
    (keys.c.user_id == sa.bindparam("of_user"))
    & (keys.c.key == sa.bindparam("of_key"))
    & (keys.c.claimed_at == sa.bindparam("of_claim"))
    & keys.c.status.is_(None)
)
_KEEP: Final = sa.update(keys).where(_MINE)


class SqlKeys:
    """Idempotency keys of all callers, each caller's apart from the others'."""

    def __init__(self, engine: sa.Engine, lease: timedelta) -> None:
        self._engine = autocommit(engine)
        self._lease = lease

    def claim(self, user_id: int, key: str, digest: str, *, now: datetime) -> KeptAnswer | None:
        """Claim the key for this request; the kept answer when it was answered before.

        A claim older than the lease belongs to a process that died: it is taken over, and the
        transaction that the dead one may have opened is found again by its key.

        Raises:
            KeyReusedError: claimed with another body.
            KeyInFlightError: claimed and not answered yet.
        """
        claim = {
            "user_id": user_id,
            "key": key,
            "request_hash": digest,
            "claimed_at": naive(now),
            "lost_before": naive(now - self._lease),
        }
        with self._engine.connect() as db:
            if db.execute(_CLAIM, claim).first() is not None:
                return None
            row = db.execute(
                sa.select(keys).where(keys.c.user_id == user_id, keys.c.key == key)
            ).first()
        if row is None:  # released between the two statements: the client may try again
            raise KeyInFlightError("a request with this Idempotency-Key is in flight")
        if row.request_hash != digest:
            raise KeyReusedError("this Idempotency-Key was used with another body")
        if row.status is None:
            raise KeyInFlightError("a request with this Idempotency-Key is in flight")
        return KeptAnswer(status=row.status, body=bytes(row.body))

    def keep(self, user_id: int, key: str, answer: KeptAnswer, *, claimed: datetime) -> None:
        """Keep the answer for the next request with this key."""
        given = {"status": answer.status, "body": answer.body}
        with self._engine.connect() as db:
            db.execute(_KEEP, {**given, **_mine(user_id, key, claimed)})

    def release(self, user_id: int, key: str, *, claimed: datetime) -> None:
        """Give an unanswered key back: a refused request uses up none."""
        with self._engine.connect() as db:
            db.execute(sa.delete(keys).where(_MINE), _mine(user_id, key, claimed))

    def purge(self, *, before: datetime) -> int:
        """Forget answers older than `before`; return how many."""
        return delete_all(self._engine, keys, keys.c.claimed_at < naive(before))


def _mine(user_id: int, key: str, claimed: datetime) -> dict[str, Any]:
    return {"of_user": user_id, "of_key": key, "of_claim": naive(claimed)}
