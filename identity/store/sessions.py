"""Sessions, refresh tokens, and what is revoked: the durable record.

Whatever adds to or ends the sessions of an account first holds the account's row. So a sign-in
and a sign-out everywhere go one after the other, and nothing is issued behind a revocation's back.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as upsert

from cloud.errors import InvalidError
from cloud.messaging.outbox import put
from cloud.stores.postgres import autocommit
from identity.domain import (
    AccessToken,
    Action,
    Credentials,
    Ended,
    Entry,
    Fresh,
    Issued,
    Lockout,
    Reused,
    Session,
    SessionId,
    SpentTokenError,
    Standing,
    Status,
    UnknownUserError,
    UserId,
    Visit,
    judge,
)
from identity.events import reuse_noticed
from identity.store import trail
from identity.store.accounts import lock_user, read_user
from identity.store.tables import access_tokens, blacklist, refresh_tokens, sessions, users

ACCESS: Final = "ACCESS"
ROTATION: Final = "rotation"


class SqlSessions:
    """Answers `identity.service.Sessions`."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine, self._single = engine, autocommit(engine)

    def sign_in(
        self,
        credentials: Credentials,
        *,
        matched: bool,
        fresh: Fresh,
        visit: Visit,
        lockout: Lockout,
        now: datetime,
    ) -> Issued | InvalidError:
        """Judge the attempt and keep the verdict; a refusal is returned, so that it is committed.

        The row is held meanwhile: of many guesses at once each one counts, and one that was
        checked before the lock but comes after it is refused.
        """
        user_id = credentials.user_id
        with self._engine.begin() as db:
            row = lock_user(db, user_id)
            # The password may have been changed while this one was being hashed.
            matched = matched and row.password == credentials.password_hash
            standing, refusal = judge(_standing(row), matched=matched, lockout=lockout, now=now)
            entry = Entry(Action.LOGIN, visit, now, user_id)
            seen = {} if refusal else {"last_login_at": now, "last_login_ip": visit.address}
            db.execute(
                sa.update(users)
                .where(users.c.id == user_id)
                .values(
                    status=standing.status,
                    failed_login_attempts=standing.failures,
                    locked_until=standing.locked_until,
                    updated_at=now,
                    **seen,
                )
            )
            if refusal:
                trail.write(db, entry.failed(refusal, Action.LOGIN_FAILED))
                return refusal
            trail.write(db, entry)
            session_id = _open(db, user_id, visit, now)
            return _issue(db, user_id, session_id, fresh, visit, now)

    def rotate(self, token: str, fresh: Fresh, visit: Visit, now: datetime) -> Issued | Reused:
        """Spend the refresh token and issue the next of its chain.

        A token that was spent before ends its whole chain instead; that is returned, not raised,
        so that it is committed.

        Raises:
            SpentTokenError: unknown, expired, revoked, or of an account that may not sign in.
        """
        with self._engine.begin() as db:
            row, standing = _hold(db, token)
            if row.revoked_at is not None and ROTATION[:5] in (row.revoked_reason or "").lower():
                return _end_chain(db, row, visit, now)
            able = standing.at(now).status is Status.ACTIVE
            if row.revoked_at is not None or row.expires_at <= now or not able:
                raise SpentTokenError
            session_id = _continue(db, row, visit, now)
            _spend(db, refresh_tokens.c.id == row.id, reason=ROTATION, now=now)
            trail.write(db, Entry(Action.TOKEN_REFRESH, visit, now, row.user_id))
            carried = Visit(visit.address, visit.user_agent, row.device_info or "")
            return _issue(db, row.user_id, session_id, fresh, carried, now)

    def end(self, token: str, bearer: AccessToken | None, visit: Visit, now: datetime) -> Ended:
        """End the session of the refresh token, and revoke the access token beside it.

        Raises:
            SpentTokenError: the refresh token is unknown, expired, revoked or somebody else's.
        """
        with self._engine.begin() as db:
            row, _ = _hold(db, token)
            owned = bearer is None or bearer.user_id == row.user_id
            if row.revoked_at is not None or row.expires_at <= now or not owned:
                raise SpentTokenError
            reason = "logout"
            _spend(db, refresh_tokens.c.id == row.id, reason=reason, now=now)
            which = sessions.c.id == _session_id(db, row)
            trail.write(db, Entry(Action.LOGOUT, visit, now, row.user_id))
            return _end(db, row.user_id, which, reason=reason, now=now, bearer=bearer)

    def end_all(self, bearer: AccessToken, visit: Visit, now: datetime) -> Ended:
        """End every session of the bearer's account.

        Raises:
            UnknownUserError: there is no such account.
        """
        user_id = bearer.user_id
        with self._engine.begin() as db:
            lock_user(db, user_id)
            reason = "logout of all"
            _spend(db, refresh_tokens.c.user_id == user_id, reason=reason, now=now)
            trail.write(db, Entry(Action.LOGOUT_ALL, visit, now, user_id))
            return _end(db, user_id, sa.true(), reason=reason, now=now, bearer=bearer)

    def list_active(self, user_id: UserId, now: datetime) -> Sequence[Session]:
        """List the sessions that a refresh token keeps alive, newest first."""
        mine = select_sessions().where(sessions.c.user_id == user_id, *is_live(now))
        with self._single.connect() as db:
            return [to_session(row) for row in db.execute(mine.order_by(sessions.c.id.desc()))]

    def is_revoked(self, jti: str) -> bool:
        """Tell whether the access token of this name was taken back."""
        with self._single.connect() as db:
            found = db.execute(sa.select(blacklist.c.id).where(blacklist.c.jti == jti))
            return found.first() is not None


def select_sessions() -> sa.Select[Any]:
    """Select sessions with the end of their refresh token; one that is purged has none."""
    tied = refresh_tokens.c.id == sessions.c.refresh_token_id
    end = refresh_tokens.c.expires_at, refresh_tokens.c.revoked_at
    return sa.select(sessions, *end).join_from(sessions, refresh_tokens, tied, isouter=True)


def is_live(now: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    """Tell by rows of `select_sessions` whether the session can still be refreshed."""
    kept = refresh_tokens.c.revoked_at.is_(None), refresh_tokens.c.expires_at > now
    return (sessions.c.is_active, *kept)


def to_session(row: sa.Row[Any]) -> Session:
    """Read a row of `select_sessions`."""
    created_at = row.created_at or row.last_access_at
    return Session(
        id=SessionId(row.id),
        user_id=UserId(row.user_id),
        device=row.device_info or "",
        address=row.ip_address or "",
        created_at=created_at,
        last_seen_at=row.last_access_at or created_at,
        refresh_token_id=row.refresh_token_id,
        expires_at=row.expires_at,
    )


def to_access_token(row: sa.Row[Any]) -> AccessToken:
    """Read a row of `access_tokens`."""
    session_id = None if row.session_id is None else SessionId(row.session_id)
    return AccessToken(row.jti, UserId(row.user_id), session_id, row.expires_at)


def _standing(row: sa.Row[Any]) -> Standing:
    return Standing(Status(row.status), row.failed_login_attempts, row.locked_until)


def _hold(db: sa.Connection, token: str) -> tuple[sa.Row[Any], Standing]:
    """Hold the account of a refresh token, then the token."""
    named = refresh_tokens.c.token == token
    user_id = db.execute(sa.select(refresh_tokens.c.user_id).where(named)).scalar()
    if user_id is None:
        raise SpentTokenError
    try:
        standing = _standing(lock_user(db, UserId(user_id)))
    except UnknownUserError:
        raise SpentTokenError from None
    # A JVM instance beside us holds no account; the token's own row is where we meet it.
    row = db.execute(sa.select(refresh_tokens).where(named).with_for_update()).first()
    if row is None:
        raise SpentTokenError
    return row, standing


def _session_id(db: sa.Connection, token: sa.Row[Any]) -> int | None:
    """Find the session of a refresh token; one that a JVM service opened names the token."""
    if token.session_id is not None:
        return int(token.session_id)
    tied = sa.select(sessions.c.id).where(sessions.c.refresh_token_id == token.id)
    return db.execute(tied.order_by(sessions.c.id.desc()).limit(1)).scalar()


def _open(db: sa.Connection, user_id: UserId, visit: Visit, now: datetime) -> SessionId:
    row = {
        "user_id": user_id,
        "device_info": visit.device,
        "ip_address": visit.address,
        "user_agent": visit.user_agent,
        "is_active": True,
        "last_access_at": now,
        "created_at": now,
    }
    made = db.execute(sa.insert(sessions).values(row).returning(sessions.c.id))
    return SessionId(made.scalar_one())


def _continue(db: sa.Connection, token: sa.Row[Any], visit: Visit, now: datetime) -> SessionId:
    """Return the session to go on with; what a JVM service began gets the row that it lacks."""
    session_id = _session_id(db, token)
    if session_id is None:
        carried = Visit(visit.address, visit.user_agent, token.device_info or "")
        return _open(db, UserId(token.user_id), carried, now)
    if token.session_id is not None:
        active = sa.select(sessions.c.is_active).where(sessions.c.id == session_id)
        if not db.execute(active).scalar():
            raise SpentTokenError
    return SessionId(session_id)


def _issue(
    db: sa.Connection,
    user_id: UserId,
    session_id: SessionId,
    fresh: Fresh,
    visit: Visit,
    now: datetime,
) -> Issued:
    refresh = {
        "token": fresh.refresh_token,
        "user_id": user_id,
        "session_id": session_id,
        "device_info": visit.device,
        "ip_address": visit.address,
        "user_agent": visit.user_agent,
        "expires_at": fresh.refresh_expires_at,
        "created_at": now,
    }
    made = db.execute(sa.insert(refresh_tokens).values(refresh).returning(refresh_tokens.c.id))
    access = AccessToken(fresh.jti, user_id, session_id, fresh.access_expires_at)
    db.execute(
        sa.insert(access_tokens).values(
            jti=access.jti, user_id=user_id, session_id=session_id, expires_at=access.expires_at
        )
    )
    moved = {
        "refresh_token_id": made.scalar_one(),
        "is_active": True,
        "last_access_at": now,
        "mirrored_at": None,
    }
    db.execute(sa.update(sessions).where(sessions.c.id == session_id).values(moved))
    session = db.execute(select_sessions().where(sessions.c.id == session_id)).one()
    return Issued(read_user(db, user_id), to_session(session), access)


def _spend(db: sa.Connection, which: sa.ColumnElement[bool], *, reason: str, now: datetime) -> None:
    alive = which, refresh_tokens.c.revoked_at.is_(None)
    spent = {"revoked_at": now, "revoked_reason": reason}
    db.execute(sa.update(refresh_tokens).where(*alive).values(spent))


def _end_chain(db: sa.Connection, token: sa.Row[Any], visit: Visit, now: datetime) -> Reused:
    """End the session of a token that came twice, and have its user warned, once."""
    user_id, session_id = UserId(token.user_id), _session_id(db, token)
    if session_id is None:  # of a chain that a JVM service rotated, which keeps no trace of it
        raise SpentTokenError
    reason = "reuse of a rotated token"
    _spend(db, refresh_tokens.c.session_id == session_id, reason=reason, now=now)
    which = sessions.c.id == session_id
    ended = _end(db, user_id, which, reason=reason, now=now)
    details = f"{reason}, session {session_id}"
    trail.write(db, Entry(Action.TOKEN_REVOKE, visit, now, user_id, details=details))
    for ended_id in ended.sessions:
        put(db, reuse_noticed(read_user(db, user_id), ended_id, now), now)
    return Reused(ended)


def revoke_all(
    db: sa.Connection, user_id: UserId, *, reason: str, now: datetime
) -> Sequence[AccessToken]:
    """Revoke the live access tokens of an account; its sessions go on and get new ones.

    Args:
        db: holds the account's row.
        user_id: whose tokens.
        reason: for the row of each token.
        now: the instant that they end.
    """
    mine = access_tokens.c.user_id == user_id, access_tokens.c.expires_at > now
    tokens = [to_access_token(row) for row in db.execute(sa.select(access_tokens).where(*mine))]
    _revoke(db, tokens, user_id, reason=reason, now=now)
    return tokens


def _revoke(
    db: sa.Connection,
    tokens: Iterable[AccessToken],
    user_id: UserId,
    *,
    reason: str,
    now: datetime,
) -> None:
    rows = [
        {
            "jti": token.jti,
            "user_id": user_id,
            "token_type": ACCESS,
            "expires_at": token.expires_at,
            "reason": reason,
            "created_at": now,
        }
        for token in tokens
    ]
    if rows:
        db.execute(upsert(blacklist).on_conflict_do_nothing(), rows)


def _end(
    db: sa.Connection,
    user_id: UserId,
    which: sa.ColumnElement[bool],
    *,
    reason: str,
    now: datetime,
    bearer: AccessToken | None = None,
) -> Ended:
    """Close sessions of the account and revoke their access tokens that are still alive.

    Args:
        db: holds the account's row.
        user_id: whose sessions.
        which: condition on `sessions`.
        reason: for the row of each token.
        now: the instant that everything ends.
        bearer: a further token to revoke; it may come from an issuer that knows no sessions.
    """
    mine = sessions.c.user_id == user_id, which
    of_these = access_tokens.c.session_id.in_(sa.select(sessions.c.id).where(*mine))
    alive = sa.select(access_tokens).where(of_these, access_tokens.c.expires_at > now)
    tokens = {row.jti: to_access_token(row) for row in db.execute(alive)}
    if bearer:
        tokens[bearer.jti] = bearer
    _revoke(db, tokens.values(), user_id, reason=reason, now=now)
    closed = sa.update(sessions).where(*mine, sessions.c.is_active)
    closed = closed.values(is_active=False, mirrored_at=None)
    ended = db.execute(closed.returning(sessions.c.id)).scalars()
    return Ended(user_id, tuple(map(SessionId, ended)), tuple(tokens.values()))
