"""Signing in, going on, signing out."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from cloud.errors import InvalidError
from identity.domain import (
    AccessToken,
    Action,
    BadCredentialsError,
    Credentials,
    Ended,
    Entry,
    Fresh,
    Issued,
    Lockout,
    Regranted,
    Reused,
    Session,
    SpentTokenError,
    TokenPair,
    UserId,
    Visit,
)
from identity.service.accounts import Accounts, Trail
from identity.service.passwords import Passwords
from identity.service.tokens import Tokens


class Sessions(Protocol):  # answered by identity.store.SqlSessions
    """The durable record of sessions and revocations."""

    def sign_in(
        self,
        credentials: Credentials,
        *,
        matched: bool,
        fresh: Fresh,
        visit: Visit,
        lockout: Lockout,
        now: datetime,
    ) -> Issued | InvalidError: ...
    def rotate(self, token: str, fresh: Fresh, visit: Visit, now: datetime) -> Issued | Reused: ...
    def end(self, token: str, bearer: AccessToken | None, visit: Visit, now: datetime) -> Ended: ...
    def end_all(self, bearer: AccessToken, visit: Visit, now: datetime) -> Ended: ...
    def list_active(self, user_id: UserId, now: datetime) -> Sequence[Session]: ...
    def is_revoked(self, jti: str) -> bool: ...


class Live(Protocol):  # answered by identity.store.RedisLive
    """What the gateway sees at once; never fails, and is brought in step later if it must."""

    def opened(self, issued: Issued, now: datetime) -> None: ...
    def ended(self, ended: Ended, now: datetime) -> None: ...
    def regranted(self, changed: Regranted, now: datetime) -> None: ...


def login(  # noqa: PLR0913 - what a sign-in is made of
    name: str,
    password: str,
    *,
    accounts: Accounts,
    sessions: Sessions,
    live: Live,
    trail: Trail,
    passwords: Passwords,
    tokens: Tokens,
    lockout: Lockout,
    visit: Visit,
    now: datetime,
) -> TokenPair:
    """Open a session for the right password.

    Every attempt costs one hash and one transaction, whoever it is for.

    Raises:
        BadCredentialsError: unknown, wrong, or locked by failures; the failure is committed.
        ClosedAccountError: right, but an administrator closed the account.
        BusyError: too many passwords are being hashed.
    """
    credentials = accounts.find_credentials(name)
    known = credentials.password_hash if credentials else None
    matched = passwords.match(password, known)
    if credentials is None:
        refusal = BadCredentialsError()
        trail.record(Entry(Action.LOGIN_FAILED, visit, now).failed(refusal))
        raise refusal
    fresh = tokens.fresh(now)
    issued = sessions.sign_in(
        credentials, matched=matched, fresh=fresh, visit=visit, lockout=lockout, now=now
    )
    if isinstance(issued, InvalidError):
        raise issued
    live.opened(issued, now)
    return tokens.pair(issued, fresh, now)


def refresh(
    token: str,
    *,
    sessions: Sessions,
    live: Live,
    trail: Trail,
    tokens: Tokens,
    visit: Visit,
    now: datetime,
) -> TokenPair:
    """Trade a refresh token for a new pair (rotation, RFC 9700 section 4.14.2).

    Raises:
        SpentTokenError: it has no use left. If it was used before, its whole session has ended
            now: one of its two holders is not the user.
    """
    fresh = tokens.fresh(now)
    try:
        issued = sessions.rotate(token, fresh, visit, now)
    except SpentTokenError as error:
        trail.record(Entry(Action.TOKEN_REFRESH, visit, now).failed(error))
        raise
    if isinstance(issued, Reused):
        live.ended(issued.ended, now)
        raise SpentTokenError
    live.opened(issued, now)
    return tokens.pair(issued, fresh, now)


def logout(
    token: str,
    bearer: AccessToken | None,
    *,
    sessions: Sessions,
    live: Live,
    trail: Trail,
    visit: Visit,
    now: datetime,
) -> None:
    """End the session of the refresh token, with every access token of it and the bearer's.

    Raises:
        SpentTokenError: it has no use left, or is not the bearer's.
    """
    try:
        ended = sessions.end(token, bearer, visit, now)
    except SpentTokenError as error:
        user_id = bearer.user_id if bearer else None
        trail.record(Entry(Action.LOGOUT, visit, now, user_id).failed(error))
        raise
    live.ended(ended, now)


def logout_all(
    bearer: AccessToken, *, sessions: Sessions, live: Live, visit: Visit, now: datetime
) -> None:
    """End every session of the bearer's account.

    Raises:
        UnknownUserError: the account is gone.
    """
    live.ended(sessions.end_all(bearer, visit, now), now)
