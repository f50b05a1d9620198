"""The door's settings."""

from dataclasses import dataclass, field

from flask import Flask, current_app

from cloud.config import Environment, Properties
from cloud.security import Networks, jwt_secret, trusted_proxies

_EXTENSION = "nozie.web"


@dataclass(frozen=True, slots=True)
class Settings:
    """Typed settings.

    Attributes:
        max_body_size: bytes.
        trusted_proxies: peers whose X-Forwarded-For is believed.
        allowed_origins: browsers' origins that may call this port itself.
    """

    secret: str = field(repr=False)
    max_body_size: int
    trusted_proxies: Networks
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
            trusted_proxies=trusted_proxies(properties, "web"),
            allowed_origins=frozenset(properties.listing("nozie.web.allowed-origins")),
        )


def install(app: Flask, environment: Environment) -> None:
    """Read the settings now and after every refresh; one that cannot be used leaves the old."""

    def read(properties: Properties, _changed: frozenset[str] = frozenset()) -> None:
        app.extensions[_EXTENSION] = fresh = Settings.of(properties)
        app.config["MAX_CONTENT_LENGTH"] = fresh.max_body_size

    read(environment.properties)
    environment.require(Settings.of)
    environment.subscribe(read)


def settings() -> Settings:
    """Return the settings in force for this request."""
    found: Settings = current_app.extensions[_EXTENSION]
    return found
