"""What is over and may go (refresh tokens and revocations past their end say nothing any more)."""

from datetime import datetime
from typing import Final

import sqlalchemy as sa

from cloud.stores import postgres
from identity.store.sessions import select_sessions
from identity.store.tables import access_tokens, blacklist, refresh_tokens, sessions

_BATCH: Final = 1000


def purge(engine: sa.Engine, now: datetime) -> int:
    """Delete expired tokens and revocations, close sessions that nothing keeps alive.

    In batches, so that no lock is held for long. Safe side by side on two instances.

    Returns:
        Rows deleted.
    """
    return _close(engine, now) + sum(
        postgres.delete_all(engine, table, table.c.expires_at <= now)
        for table in (refresh_tokens, access_tokens, blacklist)
    )


def _close(engine: sa.Engine, now: datetime) -> int:
    over = select_sessions().where(sessions.c.is_active, refresh_tokens.c.expires_at <= now)
    ids = over.with_only_columns(sessions.c.id).with_for_update(of=sessions, skip_locked=True)
    close = sa.update(sessions).where(sessions.c.id.in_(ids.limit(_BATCH)))
    while True:
        with engine.begin() as db:
            if db.execute(close.values(is_active=False, mirrored_at=None)).rowcount < _BATCH:
                return 0
