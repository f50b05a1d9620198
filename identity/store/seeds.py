"""What must be there before the first request."""

from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as upsert

from identity.domain import ADMIN_ROLE, USER_ROLE, Status
from identity.store.accounts import ensure_role
from identity.store.tables import permissions, user_roles, users

_LOCK: Final = 80_85_02
_PERMISSIONS: Final = {
    "movie": ("read", "write", "delete"),
    "customer": ("read", "write", "delete"),
    "payment": ("read", "write"),
    "notification": ("read", "write"),
    "user": ("read", "write", "admin"),
}
_ROLES: Final = {
    ADMIN_ROLE: "Runs the platform",
    USER_ROLE: "Watches movies",
    "MODERATOR": "Looks after the catalogue and what people write",
}
ADMIN: Final = "admin"
_ADMIN_EMAIL: Final = "admin@nozie.com"


def seed(engine: sa.Engine, now: datetime) -> bool:
    """Add the permissions and roles that are missing, in the order that gives them their ids.

    Returns:
        Whether the administrator is still missing.
    """
    with engine.begin() as db:
        # Two instances may start at once, and the ids are part of the contract.
        db.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        present = set(db.execute(sa.select(permissions.c.name)).scalars())
        rows = [
            {
                "name": f"{resource}:{action}",
                "description": f"May {action} {resource} data",
                "resource": resource,
                "action": action,
                "created_at": now,
            }
            for resource, actions in _PERMISSIONS.items()
            for action in actions
            if f"{resource}:{action}" not in present
        ]
        # One at a time: the order of a batch is not promised, and the ids follow it.
        for row in rows:
            db.execute(sa.insert(permissions).values(row))
        for name, description in _ROLES.items():
            ensure_role(db, name, now, description)
        admin = sa.select(users.c.id).where(users.c.username == ADMIN)
        return db.execute(admin).first() is None


def seed_admin(engine: sa.Engine, password_hash: str, now: datetime) -> bool:
    """Add the administrator.

    Returns:
        False when another instance was faster.
    """
    with engine.begin() as db:
        db.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        row = {
            "username": ADMIN,
            "email": _ADMIN_EMAIL,
            "password": password_hash,
            "status": Status.ACTIVE,
            "failed_login_attempts": 0,
            "created_at": now,
        }
        # Somebody may have taken the e-mail: then there is no administrator to make.
        made = upsert(users).values(row).on_conflict_do_nothing().returning(users.c.id)
        if (user_id := db.execute(made).scalar()) is None:
            return False
        role_id = ensure_role(db, ADMIN_ROLE, now)
        db.execute(sa.insert(user_roles).values(user_id=user_id, role_id=role_id))
        return True
