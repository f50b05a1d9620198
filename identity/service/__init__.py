"""Use cases of identity, and Protocols for what they ask of others."""

from identity.service.accounts import Accounts, Trail, register, update_profile
from identity.service.memberships import Memberships, follow_membership
from identity.service.passwords import Passwords
from identity.service.sessions import Live, Sessions, login, logout, logout_all, refresh
from identity.service.tokens import Tokens

__all__ = [
    "Accounts",
    "Live",
    "Memberships",
    "Passwords",
    "Sessions",
    "Tokens",
    "Trail",
    "follow_membership",
    "login",
    "logout",
    "logout_all",
    "refresh",
    "register",
    "update_profile",
]
