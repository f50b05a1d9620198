"""Memberships: what customer-service told last, and the role that follows from it."""

from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as upsert

from identity.domain import VIP_ROLE, Action, Entry, Membership, Regranted, UserId, Visit
from identity.store import trail
from identity.store.accounts import ensure_role, lock_user, read_user
from identity.store.sessions import revoke_all
from identity.store.tables import memberships, user_roles

_NOBODY: Final = Visit("", "")


class SqlMemberships:
    """Answers `identity.service.Memberships`."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def follow(self, told: Membership) -> Regranted | None:
        """Give the role, or take it back, by the newest word; None when that changes nothing.

        Live access tokens that tell of a role taken back are revoked; sessions go on. A role that
        an administrator gave is his to take.

        Raises:
            UnknownUserError: there is no such account.
        """
        user_id, now = told.user_id, told.heard_at
        with self._engine.begin() as db:
            # Two words on one account go one after the other, and no token is issued in between.
            lock_user(db, user_id)
            known = sa.select(memberships).where(memberships.c.user_id == user_id)
            row = db.execute(known).first()
            if row is not None and row.version >= told.version:
                return None
            held = row is not None and row.granted
            if told.active == held:
                _remember(db, told, granted=held)
                return None
            role_id = ensure_role(db, VIP_ROLE, now, "Has a membership")
            changed = (_give if told.active else _take)(db, user_id, role_id)
            _remember(db, told, granted=told.active and changed)
            return _changed(db, told) if changed else None


def _give(db: sa.Connection, user_id: UserId, role_id: int) -> bool:
    """Return False when the account has the role already."""
    row = upsert(user_roles).values(user_id=user_id, role_id=role_id)
    return db.execute(row.on_conflict_do_nothing()).rowcount == 1


def _take(db: sa.Connection, user_id: UserId, role_id: int) -> bool:
    """Return False when somebody has taken it before."""
    this = user_roles.c.user_id == user_id, user_roles.c.role_id == role_id
    return db.execute(sa.delete(user_roles).where(*this)).rowcount == 1


def _changed(db: sa.Connection, told: Membership) -> Regranted:
    user_id, now = told.user_id, told.heard_at
    action = Action.ROLE_ASSIGN if told.active else Action.ROLE_REVOKE
    details = f"{VIP_ROLE}, membership version {told.version}"
    trail.write(db, Entry(action, _NOBODY, now, user_id, details=details))
    ended = () if told.active else revoke_all(db, user_id, reason="role removal", now=now)
    return Regranted(read_user(db, user_id), tuple(ended))


def _remember(db: sa.Connection, told: Membership, *, granted: bool) -> None:
    state = {
        "version": told.version,
        "active": told.active,
        "granted": granted,
        "changed_at": told.heard_at,
    }
    row = upsert(memberships).values(user_id=told.user_id, **state)
    db.execute(row.on_conflict_do_update(index_elements=[memberships.c.user_id], set_=state))
