"""The audit trail."""

import sqlalchemy as sa

from identity.domain import Entry, clip
from identity.store.tables import audit


class SqlTrail:
    """Answers `identity.service.Trail`."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def record(self, entry: Entry) -> None:
        """Keep a line of its own transaction: what it tells of has failed."""
        with self._engine.begin() as db:
            write(db, entry)


def write(db: sa.Connection, entry: Entry) -> None:
    """Keep a line in the transaction of what it tells of."""
    db.execute(
        sa.insert(audit).values(
            user_id=entry.user_id,
            target_user_id=entry.user_id,
            action=entry.action,
            ip_address=entry.visit.address,
            user_agent=entry.visit.user_agent,
            details=entry.details or None,
            success=entry.success,
            error_message=clip(entry.error) or None,
            created_at=entry.at,
        )
    )
