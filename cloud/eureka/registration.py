"""Registration: what this instance says about itself (`eureka.instance.*`)."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from cloud.config import Properties, management
from cloud.envelope import zoned_date_time


@dataclass(frozen=True, slots=True)
class Registration:
    """The facts of one lease; its status is not among them, since that changes.

    Attributes:
        app: upper case, as Eureka lists it.
        host: what callers connect to; the address when `prefer-ip-address` is set.
        vip: the service id; callers look instances up by it.
        renewal: time between heartbeats.
        duration: time without a heartbeat after which the lease ends. The server really waits
            twice as long.
        initial_status: told once the house is ready. UP then follows the house's health; another
            one (a start in the dark) holds until an operator orders UP.
    """

    instance_id: str
    app: str
    host: str
    ip: str
    port: int
    port_enabled: bool
    secure_port: int
    secure_port_enabled: bool
    vip: str
    secure_vip: str
    home_page_url: str
    status_page_url: str
    health_check_url: str
    secure_health_check_url: str
    renewal: timedelta
    duration: timedelta
    metadata: Mapping[str, str]
    initial_status: str

    @classmethod
    def of(
        cls, properties: Properties, *, port: int, eureka_url: str, now: datetime
    ) -> "Registration":
        """Read the settings; `port` is the one the socket really listens on."""
        own = _Reader(properties)
        name = own.text("appname", properties.application)
        ip = own.text("ip-address", "") or own_address(eureka_url)
        host = own.text("hostname", "") or socket.gethostname()
        number = properties.get("spring.application.instance-id") or str(port)
        instance_id = own.text("instance-id", f"{host}:{properties.application}:{number}")
        if "/" in instance_id:
            raise properties.wrong("eureka.instance.instance-id", "has a slash, as no lease id may")
        called = ip if own.flag("prefer-ip-address", default=False) else host
        plain = own.flag("non-secure-port-enabled", default=True)
        tls = own.flag("secure-port-enabled", default=False)
        served = own.number("non-secure-port", port)
        # As Spring Cloud: who says that it is there, and not where, means the server's.
        secure = own.number("secure-port", port if tls else 443)
        # Links that open: by TLS where nothing else is offered.
        base = f"https://{called}:{secure}" if tls and not plain else f"http://{called}:{served}"
        links = _links(properties, base, f"https://{called}:{secure}" if tls else "")
        info, health = (
            own.text(f"{key}-path", f"{links.path}/{management.name_of(properties, endpoint)}")
            for key, endpoint in (("status-page-url", "info"), ("health-check-url", "health"))
        )
        renewal = own.span("lease-renewal-interval-in-seconds", 30)
        return cls(
            instance_id=instance_id,
            app=name.upper(),
            host=called,
            ip=ip,
            port=served,
            port_enabled=plain,
            secure_port=secure,
            secure_port_enabled=tls,
            vip=own.text("virtual-host-name", properties.application),
            secure_vip=own.text("secure-virtual-host-name", properties.application),
            home_page_url=own.text("home-page-url", base + own.text("home-page-url-path", "/")),
            status_page_url=own.text("status-page-url", links.base and links.base + info),
            health_check_url=own.text("health-check-url", links.base and links.base + health),
            secure_health_check_url=own.text(
                "secure-health-check-url", links.secure and links.secure + health
            ),
            renewal=renewal,
            duration=own.span("lease-expiration-duration-in-seconds", 90),
            metadata={
                **links.metadata,
                # Spring Boot Admin reads an instance anew when this differs.
                "startup": zoned_date_time(now),
                **properties.subset("eureka.instance.metadata-map"),
            },
            initial_status=own.one_of("initial-status", STATUSES),
        )


_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - addresses that nobody can be called at
STATUSES = ("UP", "DOWN", "STARTING", "OUT_OF_SERVICE", "UNKNOWN")


@dataclass(frozen=True, slots=True)
class _Links:
    """How links to the management endpoints open, and what tells others of them.

    Attributes:
        base, secure: scheme and authority; empty where there are none, or none by TLS.
        path: of the endpoints.
        metadata: Spring Cloud's and Spring Boot Admin's.
    """

    base: str
    secure: str
    path: str
    metadata: Mapping[str, str]


def _links(properties: Properties, base: str, secure: str) -> _Links:
    """Read where the endpoints are, of a house that is at `base`, and at `secure` by TLS."""
    port, path = management.own_port(properties), management.base_path(properties)
    if port is not None and port < 0:
        return _Links("", "", path, {})
    given = management.own_address(properties)
    address = None if port is None or given in _WILDCARDS else given
    if port is not None:
        base, secure = (_elsewhere(url, address, port) for url in (base, secure))
    told = {"management.port": str(urlsplit(base).port), "management.context-path": path}
    return _Links(base, secure, path, told | ({"management.address": address} if address else {}))


def _elsewhere(url: str, address: str | None, port: int) -> str:
    """Return the same scheme at another port, and another address if one is given."""
    if not url:
        return ""
    scheme, _, authority = url.partition("://")
    host = address or authority.rpartition(":")[0]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class _Reader:
    """Reads below `eureka.instance`."""

    def __init__(self, properties: Properties) -> None:
        self._properties = properties

    def text(self, key: str, default: str) -> str:
        return self._properties.text(f"eureka.instance.{key}", default)

    def number(self, key: str, default: int) -> int:
        return self._properties.integer(f"eureka.instance.{key}", default, minimum=0, maximum=65535)

    def flag(self, key: str, *, default: bool) -> bool:
        return self._properties.boolean(f"eureka.instance.{key}", default)

    def one_of(self, key: str, words: Sequence[str]) -> str:
        """Return one of the words, the first one when none is given."""
        found = self.text(key, words[0]).upper()
        if found not in words:
            raise self._properties.wrong(f"eureka.instance.{key}", f"is none of {', '.join(words)}")
        return found

    def span(self, key: str, default: int) -> timedelta:
        span = self._properties.duration(
            f"eureka.instance.{key}", timedelta(seconds=default), unit="s"
        )
        if span < timedelta(seconds=1):
            raise self._properties.wrong(f"eureka.instance.{key}", "is less than a second")
        return span


def own_address(eureka_url: str) -> str:
    """Return the address by which this machine reaches Eureka; loopback when it has none.

    A machine has several addresses; neighbours of the registry share a network with it. Connecting
    a datagram socket sends nothing, it only asks the routing table.
    """
    parts = urlsplit(eureka_url)
    try:
        found = socket.getaddrinfo(
            parts.hostname, parts.port or 80, family=socket.AF_INET, type=socket.SOCK_DGRAM
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(found[0][4])
            return str(probe.getsockname()[0])
    except OSError:
        return _any_address()


def _any_address() -> str:
    """Return the address of the default route, for a start before Eureka's name resolves."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # TEST-NET-1 (RFC 5737): never a real neighbour, always behind the default route.
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"
