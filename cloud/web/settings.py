"""The door's settings."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

import structlog
from flask import Flask, current_app

from cloud.config import Environment, Properties
from cloud.errors import ConfigurationError
from cloud.security import jwt_secret

log = structlog.get_logger()
_EXTENSION = "nozie.web"


@dataclass(frozen=True, slots=True)
class Settings:
    """Typed settings.

    Attributes:
        max_body_size: bytes.
        trusted_proxies: peers whose X-Forwarded-For is believed.
        allowed_origins: browsers' origins that may call this port itself.
    """

    secret: str
    max_body_size: int
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
    allowed_origins: frozenset[str]

    @classmethod
    def of(cls, properties: Properties) -> "Settings":
        """Read the settings.

        Raises:
            ConfigurationError: a value cannot be used.
        """
        return cls(
            secret=jwt_secret(properties),
            max_body_size=properties.data_size("nozie.web.max-body-size", 2**20),
            trusted_proxies=_networks(properties, "nozie.web.trusted-proxies"),
            allowed_origins=frozenset(properties.listing("nozie.web.allowed-origins")),
        )


def _networks(properties: Properties, key: str) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return tuple(map(ip_network, properties.listing(key, ("127.0.0.0/8", "::1/128"))))
    except ValueError:
        raise ConfigurationError(f"{key} is not a list of networks") from None


def install(app: Flask, environment: Environment) -> None:
    """Read the settings now and after every refresh; a bad refresh leaves the old ones."""

    def read(properties: Properties) -> None:
        app.extensions[_EXTENSION] = fresh = Settings.of(properties)
        app.config["MAX_CONTENT_LENGTH"] = fresh.max_body_size

    def reread(properties: Properties, _changed: frozenset[str]) -> None:
        try:
            read(properties)
        except ConfigurationError as error:
            log.error("refresh_refused", reason=str(error))  # noqa: TRY400 - the line says it all

    read(environment.properties)
    environment.subscribe(reread)


def settings() -> Settings:
    """Return the settings in force for this request."""
    found: Settings = current_app.extensions[_EXTENSION]
    return found
