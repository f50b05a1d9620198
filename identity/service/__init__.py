"""Use cases of identity, and Protocols for what they ask of others."""

from identity.service.accounts import Accounts, Trail, register, update_profile
from identity.service.passwords import Passwords
from identity.service.sessions import Live, Sessions, login, logout, logout_all, refresh
from identity.service.tokens import Tokens

__all__ = [
    "Accounts",
    "Live",
    "Passwords",
    "Sessions",
    "Tokens",
    "Trail",
    "login",
    "logout",
    "logout_all",
    "refresh",
    "register",
    "update_profile",
]
