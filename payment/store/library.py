"""The library: what a user has paid for, and the free titles he added."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on, insert

from payment.domain import MovieId, Purchase, Title, TransactionId, UserId
from payment.store.tables import (
    OWNED,
    aware,
    library,
    naive,
    of_user,
    read_title,
    transactions,
    write_title,
)

_MOST = 1000
_EVER = datetime.min.replace(tzinfo=UTC)


class SqlLibrary:
    """Entries are joined to payments when they are read: neither can outlive the other's truth."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def of_user(self, user_id: UserId) -> list[Purchase]:
        """List a library, newest first, hidden titles included."""
        return self._read(user_id, None)

    def find(self, user_id: UserId, movie_id: MovieId) -> Purchase | None:
        """Return the title if it is in the library, hidden or not."""
        return next(iter(self._read(user_id, movie_id)), None)

    def add(
        self,
        user_id: UserId,
        title: Title,
        *,
        is_free: bool,
        is_downloaded: bool,
        is_finished: bool,
        now: datetime,
    ) -> None:
        """Add a title, or set the flags of one that is there and list it again."""
        row = insert(library).values(
            user_id=user_id,
            movie_id=title.id,
            title=write_title(title),
            is_free=is_free,
            is_downloaded=is_downloaded,
            is_finished=is_finished,
            added_at=naive(now),
        )
        kept = {name: row.excluded[name] for name in ("title", "is_downloaded", "is_finished")}
        change = row.on_conflict_do_update(
            index_elements=[library.c.user_id, library.c.movie_id],
            set_={**kept, "is_free": library.c.is_free | row.excluded.is_free, "hidden_at": None},
        )
        with self._engine.begin() as db:
            db.execute(change)

    def hide(self, user_id: UserId, purchase: Purchase, *, now: datetime) -> None:
        """Leave a title out of the list from now on, until it is added or bought again."""
        row = insert(library).values(
            user_id=user_id,
            movie_id=purchase.movie_id,
            title=purchase.title and write_title(purchase.title),
            is_free=False,
            is_downloaded=purchase.is_downloaded,
            is_finished=purchase.is_finished,
            added_at=naive(now),
            hidden_at=naive(now),
        )
        change = row.on_conflict_do_update(
            index_elements=[library.c.user_id, library.c.movie_id],
            set_={"hidden_at": row.excluded.hidden_at},
        )
        with self._engine.begin() as db:
            db.execute(change)

    def _read(self, user_id: UserId, movie_id: MovieId | None) -> list[Purchase]:
        with self._engine.connect() as db:
            paid = {row.movie_id: row for row in db.execute(_paid(user_id, movie_id))}
            added = {row.movie_id: row for row in db.execute(_added(user_id, movie_id))}
        found = [
            _purchase(each, paid.get(each), added.get(each))
            for each in paid | added
            if each in paid or added[each].is_free
        ]
        return sorted(found, key=lambda one: one.since or _EVER, reverse=True)


def _paid(user_id: UserId, movie_id: MovieId | None) -> sa.Select[Any]:
    """Select the last payment of each title."""
    table = transactions
    query = (
        sa.select(table.c.id, table.c.movie_id, table.c.title, table.c.paid_at, table.c.created_at)
        .ext(distinct_on(table.c.movie_id))
        .where(of_user(user_id), OWNED, table.c.plan_days.is_(None))
        .order_by(table.c.movie_id, table.c.id.desc())
    )
    return query.limit(_MOST) if movie_id is None else query.where(table.c.movie_id == movie_id)


def _added(user_id: UserId, movie_id: MovieId | None) -> sa.Select[Any]:
    query = sa.select(library).where(library.c.user_id == user_id)
    query = query.order_by(library.c.added_at.desc()).limit(_MOST)
    return query if movie_id is None else query.where(library.c.movie_id == movie_id)


def _purchase(movie_id: str, paid: sa.Row[Any] | None, added: sa.Row[Any] | None) -> Purchase:
    since = (paid.paid_at or paid.created_at) if paid else added.added_at if added else None
    # What was bought after it had been hidden is there again.
    hidden = added is not None and added.hidden_at is not None
    if hidden and paid and since:
        hidden = added is not None and added.hidden_at >= since
    stored = (paid.title if paid else None) or (added.title if added else None)
    return Purchase(
        movie_id=MovieId(movie_id),
        title=read_title(movie_id, stored),
        since=aware(since),
        transaction_id=TransactionId(paid.id) if paid else None,
        is_downloaded=bool(added and added.is_downloaded),
        is_finished=bool(added and added.is_finished),
        is_hidden=hidden,
    )
