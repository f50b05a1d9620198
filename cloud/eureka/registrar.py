"""The registrar: the one voice by which an instance speaks to Eureka.

Every word goes through one thread of one process, in order. So nothing said late (a renewal, a
DOWN) can arrive after the farewell and bring the lease back to life.
"""

import threading
from collections.abc import Callable, Iterable
from datetime import timedelta

import structlog

from cloud.clock import Clock, utc_now
from cloud.config import Properties
from cloud.errors import CloudError, NotFoundError
from cloud.eureka.instance import Instance
from cloud.eureka.registration import Registration
from cloud.eureka.registry import Fetcher, Registry
from cloud.eureka.rest import EurekaServer, ServerSettings

log = structlog.get_logger()

_NO_OVERRIDE = "UNKNOWN"
_LONGEST_PAUSE_S = 10.0


class Registrar:
    """One lease, from the first registration to its end.

    Attributes:
        registered: the server has confirmed the current status.
    """

    def __init__(self, server: EurekaServer, registration: Registration, now: Clock) -> None:
        self._server = server
        self._registration = registration
        self._now = now
        self._status: str | None = None
        self._dirty_ms = 0
        self._override = _NO_OVERRIDE
        self._left = False
        self.registered = False

    def announce(self, status: str) -> None:
        """Register with `status`, unless that is what Eureka has been told already."""
        if self._left:
            return
        if status != self._status:
            self._status = status
            self._dirty_ms = max(int(self._now().timestamp() * 1000), self._dirty_ms + 1)
            self.registered = False
        if not self.registered:
            self._register(status)

    def renew(self) -> None:
        """Renew the lease; when the server does not know it (404, nothing else), register again."""
        if self._left or self._status is None:
            return
        if not self.registered:
            self._register(self._status)
            return
        try:
            self._server.renew(self._registration, self._status, self._dirty_ms)
        except NotFoundError:
            log.info("lease_lost", instance=self._registration.instance_id)
            self.registered = False
            self._register(self._status)

    def observe(self, listed: Instance | None) -> bool:
        """Compare with what the registry lists of this instance; False when it has forgotten it."""
        if listed is not None:
            self._override = listed.override
        return listed is not None or not self.registered

    def leave(self, wait: Callable[[], object]) -> None:
        """Say DOWN, wait until callers have learned of it, end the lease."""
        if self._left or self._status is None:
            self._left = True
            return
        self._left = True
        try:
            dirty_ms = max(int(self._now().timestamp() * 1000), self._dirty_ms + 1)
            self._server.register(self._registration, "DOWN", dirty_ms)
            wait()
            self._server.cancel(self._registration)
        except CloudError as error:
            # Eureka is away: the lease ends by itself. Or it has forgotten us: just as well.
            log.warning("lease_not_cancelled", error=str(error))
            return
        log.info("lease_cancelled", instance=self._registration.instance_id)

    def _register(self, status: str) -> None:
        self._server.register(self._registration, status, self._dirty_ms)
        if self._override != _NO_OVERRIDE:
            # An operator's order outlives a server that forgot it.
            self._server.override(self._registration, self._override, self._dirty_ms)
        self.registered = True
        log.info("registered", instance=self._registration.instance_id, status=status)


def fetcher(server: EurekaServer, properties: Properties, now: Clock) -> Fetcher:
    """Build what keeps the registry of an instance fresh, from `eureka.client.*`."""
    hold = properties.duration(
        "eureka.instance.lease-expiration-duration-in-seconds", timedelta(seconds=90), unit="s"
    )
    deltas = not properties.boolean("eureka.client.disable-delta", default=False)
    return Fetcher(server, Registry(hold), now, deltas=deltas)


def fetch_interval(properties: Properties) -> timedelta:
    """Read the time between two fetches."""
    return properties.duration(
        "eureka.client.registry-fetch-interval-seconds", timedelta(seconds=30), unit="s"
    )


def back_off(failures: int, longest: float) -> float:
    """Return the pause after so many failures in a row, in seconds: 0.5, 1, 2 … ten at most."""
    return min(0.5 * 2.0 ** max(failures - 1, 0), _LONGEST_PAUSE_S, longest)


def fetch_into(replace: Callable[[Iterable[Instance]], None], properties: Properties) -> None:
    """Keep a view fresh from a thread of this process: for scripts, tests, a worker run alone."""
    if not (
        properties.boolean("eureka.client.enabled", default=True)
        and properties.boolean("eureka.client.fetch-registry", default=True)
    ):
        return
    server = EurekaServer(ServerSettings.of(properties), properties.application)
    source = fetcher(server, properties, utc_now)
    interval = fetch_interval(properties).total_seconds()
    done = threading.Event()

    def loop() -> None:
        failures = 0
        while True:
            try:
                source.fetch()
                replace(source.registry.instances(utc_now()))
                failures = 0
            except CloudError:
                failures += 1
            done.set()
            threading.Event().wait(back_off(failures, interval) if failures else interval)

    threading.Thread(target=loop, name="registry", daemon=True).start()
    # The first caller waits for the first answer, but not for a registry that is away.
    done.wait(timeout=2.0)
