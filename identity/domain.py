"""What identity speaks of: accounts, sessions, tokens, the audit trail, and their rules."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NewType

from cloud.errors import InvalidError, UnavailableError

UserId = NewType("UserId", int)
SessionId = NewType("SessionId", int)

TEXT_LIMIT: Final = 255  # what a text column holds, in characters
PASSWORD_LIMIT: Final = 72  # what BCrypt reads, in bytes; more would be ignored without a word
GENRES_LIMIT: Final = 100
USER_ROLE: Final = "USER"
ADMIN_ROLE: Final = "ADMIN"
VIP_ROLE: Final = "VIP"


class BadCredentialsError(InvalidError):
    """Unknown name, wrong password, or locked by failures: a caller cannot tell which."""

    def __init__(self) -> None:
        super().__init__("Invalid username or password")


class ClosedAccountError(InvalidError):
    """The password was right, but an administrator locked or disabled the account."""


class NameTakenError(InvalidError):
    """Another account goes by this username or e-mail."""


class UnknownUserError(InvalidError):
    """No such account; 400, as the JVM service answers."""

    def __init__(self) -> None:
        super().__init__("User not found")


class SpentTokenError(InvalidError):
    """A refresh token that never existed, is expired, revoked, somebody else's or used before."""

    def __init__(self) -> None:
        super().__init__("Refresh token is invalid or expired")


class BusyError(UnavailableError):
    """More sign-ins at once than this worker hashes passwords for."""

    def __init__(self) -> None:
        super().__init__("Too many sign-ins at this moment, try again shortly")


class Status(StrEnum):
    """A closed list: the column has a check constraint and a JVM reader fails on other values."""

    ACTIVE = "ACTIVE"
    LOCKED = "LOCKED"
    DISABLED = "DISABLED"


class Action(StrEnum):
    """What this service writes to the audit trail; a part of the closed list of 17 (wire.md)."""

    LOGIN = "LOGIN"
    LOGIN_FAILED = "LOGIN_FAILED"
    LOGOUT = "LOGOUT"
    LOGOUT_ALL = "LOGOUT_ALL"
    REGISTER = "REGISTER"
    TOKEN_REFRESH = "TOKEN_REFRESH"  # noqa: S105 - an action, not a secret
    TOKEN_REVOKE = "TOKEN_REVOKE"  # noqa: S105
    PROFILE_UPDATE = "PROFILE_UPDATE"
    ROLE_ASSIGN = "ROLE_ASSIGN"
    ROLE_REVOKE = "ROLE_REVOKE"


@dataclass(frozen=True, slots=True)
class Visit:
    """Where a request comes from; each text fits its column."""

    address: str
    user_agent: str
    device: str = ""

    @classmethod
    def of(cls, address: str, user_agent: str, device: str = "") -> "Visit":
        """Cut what the user did not type, rather than refuse it."""
        return cls(clip(address), clip(user_agent), clip(device))


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the audit trail."""

    action: Action
    visit: Visit
    at: datetime
    user_id: UserId | None = None
    success: bool = True
    error: str = ""
    details: str = ""

    def failed(self, error: Exception, action: Action | None = None) -> "Entry":
        """Tell the same of an attempt that failed."""
        return replace(self, action=action or self.action, success=False, error=str(error))


@dataclass(frozen=True, slots=True)
class Profile:
    """What a person tells about themselves; None is "not given", free text otherwise."""

    full_name: str | None = None
    phone: str | None = None
    country: str | None = None
    date_of_birth: str | None = None
    gender: str | None = None
    age: str | None = None
    avatar_url: str | None = None
    genres: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class User:
    """An account as its owner sees it."""

    id: UserId
    username: str
    email: str | None
    status: Status
    roles: frozenset[str]
    permissions: frozenset[str]
    last_login_at: datetime | None
    created_at: datetime
    profile: Profile


@dataclass(frozen=True, slots=True)
class NewUser:
    """A registration; names as typed, `email` None when empty."""

    username: str
    email: str | None
    password_hash: str = field(repr=False)
    profile: Profile


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a sign-in is checked against."""

    user_id: UserId
    password_hash: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Standing:
    """May this account sign in? The part of its row that decides."""

    status: Status
    failures: int
    locked_until: datetime | None

    def at(self, now: datetime) -> "Standing":
        """Read the clock: a lock with an end opens by itself, a manual one has none."""
        if self.status is Status.LOCKED and self.locked_until and self.locked_until <= now:
            return Standing(Status.ACTIVE, 0, None)
        return self


@dataclass(frozen=True, slots=True)
class Lockout:
    """After how many wrong passwords in a row an account is locked, and for how long."""

    attempts: int
    duration: timedelta


def judge(
    standing: Standing, *, matched: bool, lockout: Lockout, now: datetime
) -> tuple[Standing, InvalidError | None]:
    """Decide a sign-in.

    The lock that wrong passwords cause is never told: a right password inside it is answered like
    a wrong one, else it could be guessed on (ASVS 6.3.8). What an administrator did is told, but
    only to the right password, and not after as many failures as cause a lock.

    Returns:
        The standing to keep, and why the sign-in is refused; None lets it in.
    """
    standing = standing.at(now)
    if standing.status is Status.ACTIVE:
        if matched:
            return Standing(Status.ACTIVE, 0, None), None
        failures = standing.failures + 1
        if failures < lockout.attempts:
            return Standing(Status.ACTIVE, failures, None), BadCredentialsError()
        until = now + lockout.duration
        return Standing(Status.LOCKED, failures, until), BadCredentialsError()
    if standing.locked_until is not None:
        return standing, BadCredentialsError()
    if matched and standing.failures < lockout.attempts:
        return standing, ClosedAccountError(f"Account is {standing.status.lower()}")
    failures = standing.failures + (not matched)
    return Standing(standing.status, failures, None), BadCredentialsError()


@dataclass(frozen=True, slots=True)
class Fresh:
    """Secrets and ends of a pair about to be issued."""

    refresh_token: str = field(repr=False)
    jti: str
    access_expires_at: datetime
    refresh_expires_at: datetime


@dataclass(frozen=True, slots=True)
class Session:
    """One sign-in: a device, and the chain of refresh tokens that it got."""

    id: SessionId
    user_id: UserId
    device: str
    address: str
    created_at: datetime
    last_seen_at: datetime
    refresh_token_id: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token that was issued: its name and its end, never the token itself."""

    jti: str
    user_id: UserId
    session_id: SessionId | None
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Issued:
    """A session with the pair just given out for it."""

    user: User
    session: Session
    access: AccessToken


@dataclass(frozen=True, slots=True)
class Ended:
    """What a revocation ended: sessions, and the access tokens of theirs that were still alive."""

    user_id: UserId
    sessions: tuple[SessionId, ...] = ()
    tokens: tuple[AccessToken, ...] = ()


@dataclass(frozen=True, slots=True)
class Reused:
    """A refresh token came a second time, and what that ended."""

    ended: Ended


@dataclass(frozen=True, slots=True)
class Membership:
    """What customer-service told of a user's membership; a higher version is newer."""

    user_id: UserId
    version: int
    active: bool
    heard_at: datetime


@dataclass(frozen=True, slots=True)
class Regranted:
    """An account whose roles changed, and the access tokens that this revoked."""

    user: User
    tokens: tuple[AccessToken, ...]


@dataclass(frozen=True, slots=True)
class TokenPair:
    """What a sign-in or a refresh hands to the client."""

    access: str = field(repr=False)
    refresh: str = field(repr=False)
    lifetime: timedelta
    user: User


def clip(text: str) -> str:
    """Cut to what a text column holds; PostgreSQL stores no NUL."""
    return text.replace("\0", "")[:TEXT_LIMIT]
