"""What the routes of identity lean on."""

from dataclasses import dataclass

from cloud.clock import Clock
from identity.domain import Lockout
from identity.service import Accounts, Live, Passwords, Sessions, Tokens, Trail


@dataclass(frozen=True, slots=True)
class Deps:
    """One frozen list, made by `app.create_app`."""

    accounts: Accounts
    sessions: Sessions
    live: Live
    trail: Trail
    passwords: Passwords
    tokens: Tokens
    lockout: Lockout
    now: Clock
