"""Accounts: names, profiles, roles."""

from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as upsert

from cloud.messaging.outbox import put
from cloud.stores.postgres import autocommit
from identity.domain import (
    USER_ROLE,
    Credentials,
    Entry,
    NameTakenError,
    NewUser,
    Profile,
    Status,
    UnknownUserError,
    User,
    UserId,
)
from identity.events import user_created
from identity.store import trail
from identity.store.tables import (
    interests,
    permissions,
    profiles,
    role_permissions,
    roles,
    user_roles,
    users,
)

# Two registrations that share a name in any case, as username or as e-mail, go one after the
# other. Sorted, or two that share both names could wait for each other.
_RESERVE: Final = sa.text(
    "SELECT pg_advisory_xact_lock(key) FROM ("
    " SELECT DISTINCT hashtextextended(lower(name), 8085) AS key"
    " FROM unnest(CAST(:names AS text[])) AS name ORDER BY key) AS keys"
)


class SqlAccounts:
    """Answers `identity.service.Accounts`."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine, self._single = engine, autocommit(engine)

    def find_credentials(self, name: str) -> Credentials | None:
        """Find by username or e-mail as typed; the one whose username it is comes first."""
        found = (
            sa.select(users.c.id, users.c.password)
            .where(sa.or_(users.c.username == name, users.c.email == name))
            .order_by((users.c.username == name).desc())
            .limit(1)
        )
        with self._single.connect() as db:
            row = db.execute(found).first()
        return Credentials(UserId(row.id), row.password) if row else None

    def get_user(self, user_id: UserId) -> User:
        """Read the account.

        Raises:
            UnknownUserError: there is none.
        """
        with self._single.connect() as db:
            return read_user(db, user_id)

    def register(self, new: NewUser, entry: Entry) -> User:
        """Create the account, its profile, its audit line and its event together.

        Raises:
            NameTakenError: another account goes by one of the names, in any case.
        """
        try:
            with self._engine.begin() as db:
                _reserve(db, new)
                user_id = _insert(db, new, entry.at)
                trail.write(db, replace(entry, user_id=user_id))
                user = read_user(db, user_id)
                put(db, user_created(user, entry.at), entry.at)
        except sa.exc.IntegrityError as error:
            # A JVM instance beside us takes no part in our locks.
            raise NameTakenError("Username or e-mail is already taken") from error
        return user

    def update_profile(self, user_id: UserId, profile: Profile, entry: Entry) -> User:
        """Replace what is given, leave what is None.

        Raises:
            UnknownUserError: there is no such account.
        """
        with self._engine.begin() as db:
            lock_user(db, user_id)
            changed: dict[str, Any] = {"updated_at": entry.at}
            if profile.phone is not None:
                changed["phone_number"] = profile.phone
            db.execute(sa.update(users).where(users.c.id == user_id).values(changed))
            _write_profile(db, user_id, profile)
            trail.write(db, entry)
            return read_user(db, user_id)


def lock_user(db: sa.Connection, user_id: UserId) -> sa.Row[Any]:
    """Hold the account until the transaction ends; all that changes its sessions waits here.

    Raises:
        UnknownUserError: there is no such account.
    """
    row = db.execute(sa.select(users).where(users.c.id == user_id).with_for_update()).first()
    if row is None:
        raise UnknownUserError
    return row


def read_user(db: sa.Connection, user_id: UserId) -> User:
    """Read the account with its roles, permissions and profile, in one statement.

    Raises:
        UnknownUserError: there is no such account.
    """
    row = db.execute(_USER, {"user": user_id}).first()
    if row is None:
        raise UnknownUserError
    return User(
        id=UserId(row.id),
        username=row.username,
        email=row.email,
        status=Status(row.status),
        roles=frozenset(row.roles),
        permissions=frozenset(row.permissions),
        last_login_at=row.last_login_at,
        created_at=row.created_at,
        profile=Profile(
            full_name=row.full_name,
            phone=row.phone_number,
            country=row.country,
            date_of_birth=row.date_of_birth,
            gender=row.gender,
            age=row.age,
            avatar_url=row.avatar_url,
            genres=tuple(row.genres) if row.has_profile else None,
        ),
    )


def _reserve(db: sa.Connection, new: NewUser) -> None:
    names = [name for name in (new.username, new.email) if name]
    db.execute(_RESERVE, {"names": names})
    wanted = [sa.func.lower(name) for name in names]
    taken = sa.select(sa.func.lower(users.c.username), sa.func.lower(users.c.email)).where(
        sa.or_(
            sa.func.lower(users.c.username).in_(wanted), sa.func.lower(users.c.email).in_(wanted)
        )
    )
    if owners := db.execute(taken).all():
        by_username = any(new.username.lower() in owner for owner in owners)
        raise NameTakenError(f"{'Username' if by_username else 'E-mail'} is already taken")


def _insert(db: sa.Connection, new: NewUser, now: datetime) -> UserId:
    row = {
        "username": new.username,
        "email": new.email,
        "phone_number": new.profile.phone,
        "password": new.password_hash,
        "status": Status.ACTIVE,
        "failed_login_attempts": 0,
        "created_at": now,
    }
    user_id = UserId(db.execute(sa.insert(users).values(row).returning(users.c.id)).scalar_one())
    role_id = ensure_role(db, USER_ROLE, now)
    db.execute(sa.insert(user_roles).values(user_id=user_id, role_id=role_id))
    _write_profile(db, user_id, new.profile)
    return user_id


def ensure_role(db: sa.Connection, name: str, now: datetime, description: str | None = None) -> int:
    """Return the role's id, and create the role when it is missing."""
    found = sa.select(roles.c.id).where(roles.c.name == name)
    if (role_id := db.execute(found).scalar()) is None:
        made = upsert(roles).values(name=name, description=description, created_at=now)
        db.execute(made.on_conflict_do_nothing())
        role_id = db.execute(found).scalar_one()
    return int(role_id)


def _write_profile(db: sa.Connection, user_id: UserId, profile: Profile) -> None:
    fields = {
        "full_name": profile.full_name,
        "date_of_birth": profile.date_of_birth,
        "country": profile.country,
        "gender": profile.gender,
        "age": profile.age,
        "avatar_url": profile.avatar_url,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    write = upsert(profiles).values(user_id=user_id, **given)
    key = [profiles.c.user_id]
    db.execute(
        write.on_conflict_do_update(index_elements=key, set_=given)
        if given
        else write.on_conflict_do_nothing(index_elements=key)
    )
    if profile.genres is not None:
        db.execute(sa.delete(interests).where(interests.c.user_id == user_id))
        # A set: the same genre twice is once.
        rows = [{"user_id": user_id, "genre": genre} for genre in dict.fromkeys(profile.genres)]
        if rows:
            db.execute(sa.insert(interests), rows)


def _names(column: sa.Column[str], *where: sa.ColumnElement[bool]) -> sa.ColumnElement[list[str]]:
    """Gather the names that belong to the user of the row into one array."""
    chosen = sa.select(column).where(*where).distinct().order_by(column).correlate(users)
    return sa.func.array(chosen.scalar_subquery(), type_=ARRAY(sa.String))


_of_user: Final = user_roles.c.user_id == users.c.id
_USER: Final = (
    sa.select(
        users,
        *profiles.c["full_name", "date_of_birth", "country", "gender", "age", "avatar_url"],
        profiles.c.user_id.is_not(None).label("has_profile"),
        _names(roles.c.name, _of_user, roles.c.id == user_roles.c.role_id).label("roles"),
        _names(
            permissions.c.name,
            _of_user,
            role_permissions.c.role_id == user_roles.c.role_id,
            permissions.c.id == role_permissions.c.permission_id,
        ).label("permissions"),
        _names(
            interests.c.genre, interests.c.user_id == users.c.id, interests.c.genre.is_not(None)
        ).label("genres"),
    )
    .join_from(users, profiles, profiles.c.user_id == users.c.id, isouter=True)
    .where(users.c.id == sa.bindparam("user"))
)
