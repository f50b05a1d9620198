"""How often a checkout without a token may be started."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from cloud.errors import ThrottledError
from cloud.stores.postgres import delete_all
from payment.store.tables import checkout_limits, naive

_MINUTE = timedelta(minutes=1)


class SqlLimits:
    """Counts per calendar minute, shared by all instances."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def count(self, allowed: Mapping[str, int], *, now: datetime) -> None:
        """Count one attempt under each key.

        Raises:
            ThrottledError: one of them had more than it is allowed in this minute.
        """
        table, minute = checkout_limits, now.replace(second=0, microsecond=0)
        for key, most in allowed.items():
            fresh = insert(table).values(key=key, minute=naive(minute), count=1)
            same = table.c.minute == fresh.excluded.minute
            add = fresh.on_conflict_do_update(
                index_elements=[table.c.key],
                set_={
                    "minute": fresh.excluded.minute,
                    "count": sa.case((same, table.c.count + 1), else_=1),
                },
            )
            with self._engine.begin() as db:
                if db.execute(add.returning(table.c.count)).scalar_one() > most:
                    raise ThrottledError("Too many payments were started", minute + _MINUTE - now)

    def purge(self, *, before: datetime) -> int:
        """Forget counters older than `before`; return how many."""
        old = checkout_limits.c.minute < naive(before)
        return delete_all(self._engine, checkout_limits, old)
