"""Typed settings of identity, one line a property."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Self

from cloud.config import Properties
from cloud.errors import ConfigurationError
from cloud.security import OPEN_PROFILES

PUBLISHED_PASSWORD: Final = "admin123"  # noqa: S105 - known to everybody, so for development only


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator may set.

    Attributes:
        bcrypt_cost: 2^cost rounds a hash.
        bcrypt_parallel: hashes at a time in one worker process.
        bcrypt_waiting: requests that may wait for their turn; one more is answered 503.
        bcrypt_patience: how long they wait at most.
        lockout_attempts: wrong passwords in a row that lock an account.
        initial_password: the administrator's; None makes a random one, printed once.
        purge_interval: between two sweeps of what has expired.
    """

    access_lifetime: timedelta
    refresh_lifetime: timedelta
    bcrypt_cost: int
    bcrypt_parallel: int
    bcrypt_waiting: int
    bcrypt_patience: timedelta
    lockout_attempts: int
    lockout_duration: timedelta
    initial_password: str | None = field(repr=False)
    purge_interval: timedelta

    @classmethod
    def of(cls, properties: Properties) -> Self:
        """Read the settings.

        Raises:
            ConfigurationError: a value cannot be used, or a published secret is used in earnest.
        """
        own, lockout = "nozie.identity", "nozie.identity.lockout"
        return cls(
            access_lifetime=_life(properties, "jwt.access-token-expiration", minutes=15),
            refresh_lifetime=_life(properties, "jwt.refresh-token-expiration", days=7),
            bcrypt_cost=properties.integer(f"{own}.bcrypt-cost", 10, minimum=4, maximum=15),
            bcrypt_parallel=properties.integer(f"{own}.bcrypt-parallel", 1, minimum=1),
            bcrypt_waiting=properties.integer(f"{own}.bcrypt-waiting", 32, minimum=0),
            bcrypt_patience=properties.duration(f"{own}.bcrypt-patience", timedelta(seconds=3)),
            lockout_attempts=properties.integer(f"{lockout}.attempts", 5, minimum=1),
            lockout_duration=properties.duration(f"{lockout}.duration", timedelta(minutes=15)),
            initial_password=_initial_password(properties),
            purge_interval=properties.duration(f"{own}.purge-interval", timedelta(days=1)),
        )


def _life(properties: Properties, key: str, **default: int) -> timedelta:
    life = properties.duration(key, timedelta(**default))
    if life < timedelta(seconds=1):
        raise ConfigurationError(f"{key} ({properties.origin(key)}) is shorter than a second")
    return life


def _initial_password(properties: Properties) -> str | None:
    key = "nozie.admin.initial-password"
    # NOZIE_ADMIN_PASSWORD reaches this key by application.yml; unset, it is empty.
    given = properties.text(key, "") or None
    development = OPEN_PROFILES.issuperset(properties.profiles)
    if given is None and development:
        return PUBLISHED_PASSWORD
    if given == PUBLISHED_PASSWORD and not development:
        raise ConfigurationError(
            f"{properties.application}: {key} is the published one; set NOZIE_ADMIN_PASSWORD"
        )
    return given
