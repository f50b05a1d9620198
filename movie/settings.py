"""What this service can be told, by Spring properties."""

from dataclasses import dataclass
from datetime import timedelta

from cloud.config import Properties
from cloud.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Settings:
    """One line per property.

    Attributes:
        seed: load the invented catalogue into an empty estate.
        open_links: give every caller every streaming address, as the JVM service does.
        open_writes: let callers without a token edit the catalogue.
        view_window: within this time one viewer counts once for a title.
        adopt_interval: how long documents that others wrote may stay unsearchable.
        call_timeout: one call to customer-service or payment-service.
    """

    seed: bool
    open_links: bool
    open_writes: bool
    view_window: timedelta
    adopt_interval: timedelta
    call_timeout: timedelta

    @classmethod
    def of(cls, properties: Properties) -> "Settings":
        settings = cls(
            seed=properties.boolean("nozie.movie.seed", default=False),
            open_links=properties.boolean("nozie.movie.open-links", default=False),
            open_writes=properties.boolean("nozie.movie.open-writes", default=False),
            view_window=properties.duration("nozie.movie.view-window", timedelta(minutes=10)),
            adopt_interval=properties.duration("nozie.movie.adopt-interval", timedelta(seconds=30)),
            call_timeout=properties.duration("nozie.movie.call-timeout", timedelta(seconds=2)),
        )
        if settings.open_writes and "prod" in properties.profiles:
            raise ConfigurationError(
                f"{properties.application}: nozie.movie.open-writes is for development machines"
            )
        return settings
