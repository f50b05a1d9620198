"""Servers: where Eureka is, and which of several is asked (`eureka.client.*`)."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Self
from urllib.parse import urlsplit

from cloud.config import Properties
from cloud.config.proxy import Proxy

_CLIENT = "eureka.client"
_DEFAULT_ZONE = "defaultZone"
_LOCAL = ("http://localhost:8761/eureka/",)
_TRIES = 3
_FULL_QUARANTINE = 0.66
_SESSION = timedelta(minutes=20)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where Eureka is and how long a call may take.

    Attributes:
        zones: the servers' addresses by zone, the own zone's first; each ends in a slash.
        proxy: by which all of them are reached, None for a straight way.
    """

    zones: tuple[tuple[str, ...], ...]
    connect_timeout: timedelta
    read_timeout: timedelta
    gzip: bool
    proxy: Proxy | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """All addresses."""
        return tuple(url for zone in self.zones for url in zone)

    @classmethod
    def of(cls, properties: Properties) -> Self:
        """Read the settings.

        Raises:
            ConfigurationError: an address is none.
        """
        return cls(
            zones=_zones(properties),
            connect_timeout=properties.duration(
                f"{_CLIENT}.eureka-server-connect-timeout-seconds", timedelta(seconds=5), unit="s"
            ),
            read_timeout=properties.duration(
                f"{_CLIENT}.eureka-server-read-timeout-seconds", timedelta(seconds=8), unit="s"
            ),
            gzip=properties.boolean(f"{_CLIENT}.g-zip-content", default=True),
            proxy=Proxy.of(properties),
        )


def fetch_interval(properties: Properties) -> timedelta:
    """Read the time between two fetches."""
    return properties.duration(
        f"{_CLIENT}.registry-fetch-interval-seconds", timedelta(seconds=30), unit="s"
    )


def _zones(properties: Properties) -> tuple[tuple[str, ...], ...]:
    """Order the region's zones as EndpointUtils does: from the preferred one on, round."""
    region = properties.text(f"{_CLIENT}.region", "us-east-1")
    zones = properties.listing(f"{_CLIENT}.availability-zones.{region}", (_DEFAULT_ZONE,))
    own = properties.get("eureka.instance.metadata-map.zone") or zones[0]
    same = properties.boolean(f"{_CLIENT}.prefer-same-zone-eureka", default=True)
    # Whoever does not prefer the own zone begins with the first other one.
    places = (place for place, zone in enumerate(zones) if (zone.lower() == own.lower()) == same)
    first = next(places, 0)
    seen: set[str] = set()
    found: list[tuple[str, ...]] = []
    for zone in (*zones[first:], *zones[:first]):
        urls = tuple(url for url in _urls(properties, zone) if url not in seen)
        seen.update(urls)
        found += [urls] if urls else []
    return tuple(found)


def _urls(properties: Properties, zone: str) -> tuple[str, ...]:
    """Read a zone's addresses, else the default's. Zones are map keys: their spelling is kept."""
    for name in dict.fromkeys((zone, _DEFAULT_ZONE)):
        key = f"{_CLIENT}.service-url.{name}"
        found = tuple(url.rstrip("/") + "/" for url in properties.listing(key))
        for url in found:
            _ensure_address(properties, key, url)
        if found:
            return found
    return _LOCAL


def _ensure_address(properties: Properties, key: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        # Not the address itself: it may hold a password.
        raise properties.wrong(key, "is no http(s) address")


class Rota:
    """Which servers a call may try, in order; it stays with the one that answered last.

    After Netflix's RetryableEurekaHttpClient: at most three servers a call; who failed is passed
    over until two thirds have failed, then all may be tried again. After about 20 minutes the order
    is drawn anew, so that no server keeps all clients since the others were once away
    (SessionedEurekaHttpClient).

    Args:
        zones: addresses; zones keep their order, the servers of one have none.
        now: monotonic seconds.
    """

    def __init__(
        self, zones: Sequence[Sequence[str]], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._zones = zones
        self._now = now
        self._quarantine: set[str] = set()
        self._current: str | None = None
        self._draw()

    def _draw(self) -> None:
        self._order = [url for zone in self._zones for url in random.sample(zone, len(zone))]
        self._until = self._now() + _SESSION.total_seconds() * random.uniform(0.5, 1.5)  # noqa: S311

    def __iter__(self) -> Iterator[str]:
        """Name the servers that one call may try."""
        if self._now() > self._until:
            self._current = None
            self._draw()
        if len(self._quarantine) >= max(1, int(len(self._order) * _FULL_QUARANTINE)):
            self._quarantine.clear()
        good = [url for url in self._order if url not in self._quarantine]
        first = [self._current] if self._current else []
        return iter(list(dict.fromkeys((*first, *good)))[:_TRIES])

    def worked(self, url: str) -> None:
        """Stay with this one."""
        self._current = url
        self._quarantine.discard(url)

    def failed(self, url: str) -> None:
        """Leave this one, and pass it over for a while."""
        self._quarantine.add(url)
        if self._current == url:
            self._current = None
