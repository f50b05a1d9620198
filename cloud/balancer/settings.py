"""Settings: Spring Cloud LoadBalancer's keys, for all services or for one (`clients.<id>`)."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from cloud.balancer.versions import ApiVersions, parse
from cloud.config import Properties

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

PREFIX = "spring.cloud.loadbalancer"

ROUND_ROBIN = "default"
RANDOM = "random"
WEIGHTED = "weighted"
ZONE = "zone-preference"
STICKY = "request-based-sticky-session"
HEALTH_CHECK = "health-check"
SAME = "same-instance-preference"
SUBSET = "subset"
API_VERSION = "api-version"
LEAST_IN_FLIGHT = "least-in-flight"
STRATEGIES = (
    ROUND_ROBIN,
    RANDOM,
    WEIGHTED,
    ZONE,
    STICKY,
    HEALTH_CHECK,
    SAME,
    SUBSET,
    API_VERSION,
    LEAST_IN_FLIGHT,
)

REFUSED = "refused"
BROKEN = "broken"
# What Java's exceptions are called here. An answer that came too late is not among them: no time
# is left for another try. Nor is a status: that is for `retryable-status-codes` alone to say.
_FAULTS = {
    **dict.fromkeys(
        ("IOException", "Exception", "Throwable", "SocketException"), (REFUSED, BROKEN)
    ),
    **dict.fromkeys(
        (
            "ConnectException",
            "NoRouteToHostException",
            "UnknownHostException",
            "ConnectTimeoutException",
            "HttpConnectTimeoutException",
            "HttpHostConnectException",
        ),
        (REFUSED,),
    ),
    **dict.fromkeys(("EOFException", "PrematureCloseException"), (BROKEN,)),
}
_ALL_FAULTS = frozenset({REFUSED, BROKEN})


class _Reader:
    """Reads an option of one service: its own when it has one, else that of all."""

    def __init__(self, properties: Properties, service_id: str) -> None:
        self.properties = properties
        self._own = f"{PREFIX}.clients.{service_id}"

    def key(self, option: str) -> str:
        own = f"{self._own}.{option}"
        given = self.properties.get(own) is not None or self.properties.listing(own)
        return own if given else f"{PREFIX}.{option}"

    def text(self, option: str, default: str) -> str:
        return self.properties.text(self.key(option), default)

    def flag(self, option: str, *, default: bool) -> bool:
        return self.properties.boolean(self.key(option), default)

    def map(self, option: str) -> Mapping[str, str]:
        """Read a map; the service's own entries come before those of all."""
        of_all = self.properties.subset(f"{PREFIX}.{option}")
        return of_all | self.properties.subset(f"{self._own}.{option}")

    def span(self, option: str, default: timedelta) -> timedelta:
        return self.properties.duration(self.key(option), default)

    def named(self, option: str, service_id: str, default: str) -> str:
        """Read one entry of a map by service id, in which `default` stands for all others."""
        return self.text(f"{option}.{service_id}", self.text(f"{option}.default", default))


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How instances are asked for their health (`health-check.*`).

    Attributes:
        port: another one than that of the service, None for the same.
        repeat: ask again after each interval, not only when instances came or went.
    """

    path: str
    port: int | None
    initial_delay: timedelta
    interval: timedelta
    repeat: bool


@dataclass(frozen=True, slots=True)
class LoadBalancing:
    """How the instances of one service take turns.

    Attributes:
        strategy: one of Spring's presets (`configurations`), or our `random`, `least-in-flight`.
        zone: where this instance runs, empty when nobody said so.
        hint: asked for when a request asks for none, empty for any instance.
        add_cookie: tell the instance its own id in that cookie.
        subset: who it is that chooses, and among how many instances at most.
        statistics: count requests under Spring's `loadbalancer.requests.*`.
    """

    strategy: str
    zone: str
    hint: str
    hint_header: str
    cookie: str
    add_cookie: bool
    health: HealthCheck
    versions: ApiVersions
    subset: tuple[str, int]
    statistics: bool

    @classmethod
    def of(cls, properties: Properties, service_id: str) -> "LoadBalancing":
        """Read what holds for a service.

        Raises:
            ConfigurationError: a strategy that is none, or a value of the wrong kind.
        """
        own = _Reader(properties, service_id)
        zone = properties.get("eureka.instance.metadata-map.zone") or ""
        return cls(
            strategy=_strategy(properties, own.key("configurations")),
            zone=own.text("zone", zone),
            hint=own.named("hint", service_id, ""),
            hint_header=own.text("hint-header-name", "X-SC-LB-Hint").lower(),
            cookie=own.text("sticky-session.instance-id-cookie-name", "sc-lb-instance-id"),
            add_cookie=own.flag("sticky-session.add-service-instance-cookie", default=False),
            health=HealthCheck(
                path=own.named("health-check.path", service_id, "/actuator/health"),
                port=properties.integer(own.key("health-check.port"), 0, minimum=0, maximum=65535)
                or None,
                initial_delay=own.span("health-check.initial-delay", timedelta()),
                interval=own.span("health-check.interval", timedelta(seconds=25)),
                repeat=own.flag("health-check.repeat-health-check", default=True),
            ),
            versions=_versions(own),
            subset=(
                own.text("subset.instance-id", "") or _own_id(properties),
                properties.integer(own.key("subset.size"), 100, minimum=1),
            ),
            statistics=own.flag("stats.micrometer.enabled", default=False),
        )


def check(properties: Properties) -> None:
    """Read the settings of every service that has some of its own.

    Raises:
        ConfigurationError: one of them cannot be used; it is named, with its source.
    """
    clients = properties.tree(f"{PREFIX}.clients")
    for service_id in ("", *clients):
        LoadBalancing.of(properties, service_id)
        RetrySettings.of(properties, service_id)


def _versions(own: _Reader) -> ApiVersions:
    key = own.key("api-version.path-segment")
    given = own.properties.get(key)
    default = own.text("api-version.default", "")
    if default and not parse(default):
        raise own.properties.wrong(own.key("api-version.default"), "is no version")
    media_types = own.map("api-version.media-type-parameters")
    return ApiVersions(
        header=own.text("api-version.header", "").lower(),
        parameter=own.text("api-version.query-parameter", ""),
        segment=own.properties.integer(key, 0, minimum=0) if given else None,
        media_types={name.lower(): parameter for name, parameter in media_types.items()},
        default=default,
        fallback=own.flag("api-version.fallback-to-available-instances", default=False),
    )


def _own_id(properties: Properties) -> str:
    """Name this instance: those of a service are to have different subsets (Spring's IdUtils)."""
    port = properties.text("server.port", "8080")
    return f"{socket.gethostname()}:{properties.application}:{port}"


def _strategy(properties: Properties, key: str) -> str:
    found = properties.text(key, ROUND_ROBIN)
    if found not in STRATEGIES:
        raise properties.wrong(key, f"is none of {', '.join(STRATEGIES)}")
    return found


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """Which calls are repeated, how often and where (`retry.*`).

    Attributes:
        same, following: further tries on the same instance, and on next ones.
        statuses: answers that are treated as no answer.
        faults: after which a call is repeated at all, `REFUSED` and `BROKEN` among them.
        all_methods: repeat unsafe methods, too. They may then take effect twice.
        avoid_previous: a next instance is one that was not tried.
        backoff: the pause before the first repetition, None for no pause; it doubles each time.
        longest: of the pauses.
        jitter: share of a pause by which it is longer or shorter, at random.
    """

    enabled: bool
    same: int
    following: int
    statuses: frozenset[int]
    faults: frozenset[str]
    all_methods: bool
    avoid_previous: bool
    backoff: timedelta | None
    longest: timedelta
    jitter: float

    @classmethod
    def of(cls, properties: Properties, service_id: str) -> "RetrySettings":
        own = _Reader(properties, service_id)
        paused = own.flag("retry.backoff.enabled", default=False)
        statuses = own.key("retry.retryable-status-codes")
        try:
            codes = frozenset(map(int, properties.listing(statuses)))
        except ValueError:
            raise properties.wrong(statuses, "is not a list of status codes") from None
        return cls(
            enabled=own.flag("retry.enabled", default=True),
            same=properties.integer(
                own.key("retry.max-retries-on-same-service-instance"), 0, minimum=0
            ),
            following=properties.integer(
                own.key("retry.max-retries-on-next-service-instance"), 1, minimum=0
            ),
            statuses=codes,
            faults=_faults(own),
            all_methods=own.flag("retry.retry-on-all-operations", default=False),
            avoid_previous=own.flag("retry.avoid-previous-instance", default=True),
            backoff=own.span("retry.backoff.min-backoff", timedelta(milliseconds=5))
            if paused
            else None,
            longest=own.span("retry.backoff.max-backoff", timedelta.max),
            jitter=properties.number(own.key("retry.backoff.jitter"), 0.5, minimum=0, maximum=1),
        )

    def may_repeat(self, method: str, fault: str = "") -> bool:
        """Tell whether a call can be made again.

        Args:
            method: of the request.
            fault: what it met, nothing when that was an answer. A call that was refused did not
                reach the callee, and may be repeated whatever its method.
        """
        if not self.enabled or (fault and fault not in self.faults):
            return False
        return fault == REFUSED or method in SAFE or self.all_methods


def _faults(own: _Reader) -> frozenset[str]:
    """Translate `retryable-exceptions`; a class of which there is nothing here adds nothing."""
    given = own.properties.listing(own.key("retry.retryable-exceptions"))
    if not given or own.flag("retry.retry-on-all-exceptions", default=False):
        return _ALL_FAULTS
    names = (name.rpartition(".")[2] for name in given)
    return frozenset(fault for name in names for fault in _FAULTS.get(name, ()))
