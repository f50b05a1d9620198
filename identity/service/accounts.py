"""Registration and the profile."""

from datetime import datetime
from typing import Protocol

from cloud.errors import InvalidError
from identity.domain import Action, Credentials, Entry, NewUser, Profile, User, UserId, Visit
from identity.service.passwords import Passwords


class Accounts(Protocol):  # answered by identity.store.SqlAccounts
    """Accounts by id and by name."""

    def find_credentials(self, name: str) -> Credentials | None: ...
    def get_user(self, user_id: UserId) -> User: ...
    def register(self, new: NewUser, entry: Entry) -> User: ...
    def update_profile(self, user_id: UserId, profile: Profile, entry: Entry) -> User: ...


class Trail(Protocol):  # answered by identity.store.SqlTrail
    """Where a failed attempt is told, in a transaction of its own."""

    def record(self, entry: Entry) -> None: ...


def register(
    username: str,
    email: str | None,
    password: str,
    profile: Profile,
    *,
    accounts: Accounts,
    trail: Trail,
    passwords: Passwords,
    visit: Visit,
    now: datetime,
) -> User:
    """Create an account with role USER; no token is issued.

    Raises:
        NameTakenError: somebody goes by one of the names already.
        BusyError: too many passwords are being hashed.
    """
    entry = Entry(Action.REGISTER, visit, now)
    # The hash comes before the transaction: no lock is held while it is computed.
    new = NewUser(username, email or None, passwords.hash(password), profile)
    try:
        return accounts.register(new, entry)
    except InvalidError as error:
        trail.record(entry.failed(error))
        raise


def update_profile(
    user_id: UserId, profile: Profile, *, accounts: Accounts, visit: Visit, now: datetime
) -> User:
    """Replace what is given in the caller's profile.

    Raises:
        UnknownUserError: the account is gone.
    """
    return accounts.update_profile(
        user_id, profile, Entry(Action.PROFILE_UPDATE, visit, now, user_id)
    )
