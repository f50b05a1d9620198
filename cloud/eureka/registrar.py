"""The registrar: the one voice by which an instance speaks to Eureka.

Every word goes through one thread of one process, in order. So nothing said late (a renewal, a
DOWN) can arrive after the farewell and bring the lease back to life.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta

import structlog

from cloud.clock import Clock, utc_now
from cloud.config import Properties
from cloud.errors import CloudError, NotFoundError
from cloud.eureka.instance import Instance
from cloud.eureka.registration import Registration
from cloud.eureka.registry import Fetcher, Registry
from cloud.eureka.rest import EurekaServer
from cloud.eureka.servers import ServerSettings, fetch_interval
from cloud.tls import Renewed

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
        self._cancelled: str | None = None
        self._left = False
        self.registered = False

    def announce(self, status: str) -> None:
        """Register with `status`, unless that is what Eureka has been told already."""
        if self._left:
            return
        if status != self._status:
            self._status = status
            self._touch()
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
        if listed is not None and listed.override != self._cancelled:
            self._override, self._cancelled = listed.override, None
        return listed is not None or not self.registered

    def change(self, registration: Registration) -> None:
        """Tell from now on what is new about this instance; its id stays."""
        self._registration = registration
        if self._status is not None:
            self._touch()
            self.renew()

    def order(self, status: str) -> None:
        """Order a status over our own, as an operator does: it holds until it is taken back.

        Raises:
            NotFoundError: we are not registered.
        """
        self._ensure_registered()
        self._server.override(self._registration, status, self._dirty_ms)
        self._override, self._cancelled = status, None

    def cancel_order(self) -> None:
        """Take back what an operator ordered: our own status holds again.

        Raises:
            NotFoundError: we are not registered.
        """
        status = self._ensure_registered()
        self._server.cancel_override(self._registration, self._dirty_ms)
        # The registry lists the order for a while yet; it must not be given again.
        self._override, self._cancelled = _NO_OVERRIDE, self._override
        # The server has no status for us now, and would answer the next renewal with 404.
        self._touch()
        self._register(status)

    def standing(self) -> Mapping[str, str]:
        """Return what the server says about us at this moment, under Spring's names."""
        try:
            found = self._server.instance(self._registration)
        except NotFoundError:
            return {"status": "UNKNOWN"}
        override = found.get("overriddenStatus") or found.get("overriddenstatus") or _NO_OVERRIDE
        return {"status": str(found.get("status")), "overriddenStatus": str(override)}

    def _ensure_registered(self) -> str:
        if self._left or self._status is None:
            raise NotFoundError("eureka: not registered")
        return self._status

    def leave(self, wait: Callable[[], object]) -> None:
        """Say DOWN, wait until callers have learned of it, end the lease."""
        if self._left or self._status is None:
            self._left = True
            return
        self._left = True
        try:
            self._touch()
            self._server.register(self._registration, "DOWN", self._dirty_ms)
            wait()
            self._server.cancel(self._registration)
        except CloudError as error:
            # Eureka is away: the lease ends by itself. Or it has forgotten us: just as well.
            log.warning("lease_not_cancelled", error=str(error))
            return
        log.info("lease_cancelled", instance=self._registration.instance_id)

    def _touch(self) -> None:
        """Mark what the server holds as outdated."""
        self._dirty_ms = max(int(self._now().timestamp() * 1000), self._dirty_ms + 1)
        self.registered = False

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
    only_up = properties.boolean("eureka.client.filter-only-up-instances", default=True)
    return Fetcher(server, Registry(hold), now, deltas=deltas, only_up=only_up)


def connect(properties: Properties, identity: str) -> EurekaServer:
    """Build the client of the servers that the properties name; it connects on first use.

    Raises:
        ConfigurationError: an address or a TLS store cannot be used.
    """
    tls = Renewed(properties, "eureka.client.tls")
    return EurekaServer(ServerSettings.of(properties), identity, tls)


def check(properties: Properties, now: datetime) -> None:
    """Read all that the registrar will read.

    Raises:
        ConfigurationError: something cannot be used; it is named, with its source.
    """
    if properties.boolean("eureka.client.enabled", default=True):
        connect(properties, "")
        Registration.of(properties, port=1, eureka_url="", now=now)
        fetch_interval(properties)


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
    server = connect(properties, properties.application)
    source = fetcher(server, properties, utc_now)
    interval = fetch_interval(properties).total_seconds()
    done = threading.Event()

    def loop() -> None:
        failures = 0
        while True:
            try:
                source.fetch()
                replace(source.offered())
                failures = 0
            except CloudError:
                failures += 1
            done.set()
            threading.Event().wait(back_off(failures, interval) if failures else interval)

    threading.Thread(target=loop, name="registry", daemon=True).start()
    # The first caller waits for the first answer, but not for a registry that is away.
    done.wait(timeout=2.0)
