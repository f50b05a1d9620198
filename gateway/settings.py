"""Settings of the gateway, typed; `nozie.gateway.*`, and Spring's own keys where it has one."""

import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from math import inf
from typing import Any

from cloud import tls
from cloud.config import Properties
from cloud.config.management import base_path, own_port
from cloud.errors import ConfigurationError
from cloud.security import Networks, jwt_secret, trusted_proxies

_PREFIX = "nozie.gateway"

# Spring Cloud Gateway's, newest first: an estate in the middle of an upgrade may hold several.
PREFIXES = (
    "spring.cloud.gateway.server.webflux",
    "spring.cloud.gateway.server.webmvc",
    "spring.cloud.gateway",
    "spring.cloud.gateway.mvc",
)


_REFUSED = {
    "httpclient.proxy.host": "cannot be followed: services are called directly, through no proxy",
    "httpclient.ssl.ssl-bundle": "is unknown here: use trusted-x509-certificates and key-store",
    "httpclient.ssl.key-store-provider": "is Java's: a key store is PKCS12 or PEM",
}
_STEP = "a request takes this step always"
_ALONE = "there is one value: a trusted proxy's, else our own"
# Each with the value that says no more than what is done anyway.
_IGNORED = {
    "enabled": ("true", "a gateway that is off is one that is not started"),
    "fail-on-route-definition-error": ("false", "one bad route is refused, the others serve"),
    "forwarded.by.enabled": ("false", "Forwarded tells for, host and proto"),
    "global-filter.adapt-cached-body.enabled": ("true", _STEP),
    "global-filter.forward-path.enabled": ("true", _STEP),
    "global-filter.forward-routing.enabled": ("true", _STEP),
    "global-filter.load-balancer-client.enabled": ("true", _STEP),
    "global-filter.netty-routing.enabled": ("true", _STEP),
    "global-filter.netty-write-response.enabled": ("true", _STEP),
    "global-filter.reactive-load-balancer-client.enabled": ("true", _STEP),
    "global-filter.remove-cached-body.enabled": ("true", _STEP),
    "global-filter.route-to-request-url.enabled": ("true", _STEP),
    "httpclient.compression": ("false", "bodies pass as they are"),
    "httpclient.max-initial-line-length": ("", "max-header-size bounds the head as a whole"),
    "httpclient.pool.eviction-interval": ("", "resting connections are looked at all the time"),
    "httpclient.pool.leasing-strategy": ("lifo", "the connection used last is used next"),
    "httpclient.ssl.close-notify-flush-timeout": ("", "a connection is closed at once"),
    "httpclient.ssl.close-notify-read-timeout": ("", "a connection is closed at once"),
    "httpclient.ssl.handshake-timeout": ("", "connect-timeout bounds the handshake, too"),
    "httpclient.websocket.max-frame-payload-length": ("", "frames pass unread, of any length"),
    "httpclient.websocket.proxy-ping": ("true", "frames pass unread, pings among them"),
    "httpclient.wiretap": ("false", "nothing of a body is logged"),
    "httpserver.wiretap": ("false", "nothing of a body is logged"),
    "metrics.enabled": ("true", "requests are always counted"),
    "metrics.prefix": ("spring.cloud.gateway", "meters bear Spring's default names"),
    "metrics.tags.path.enabled": ("false", "a meter for each path has no end"),
    "redis-rate-limiter.config": ("", "limits stand in the routes"),
    "redis-route-definition-repository.enabled": ("false", "added routes lie in the run folder"),
    "x-forwarded.host-append": ("", _ALONE),
    "x-forwarded.port-append": ("", _ALONE),
    "x-forwarded.prefix-append": ("", "the prefix is what the route's own filters cut off"),
    "x-forwarded.proto-append": ("", _ALONE),
    "streaming-media-types": ("", "every answer is passed on as it comes"),
}


def spring_key(properties: Properties, name: str) -> str:
    """Name the key that is set, under whichever of Spring's prefixes; the newest when none is."""
    keys = [f"{prefix}.{name}" for prefix in PREFIXES]
    tree = properties.tree
    held = (k for k in keys if properties.get(k) is not None or tree(k, lenient=True))
    return next(held, keys[0])


def spring_option(properties: Properties, name: str) -> str | None:
    """Read one of Spring's options as it is written; a list's items are joined by commas."""
    key = spring_key(properties, name)
    return properties.get(key) or ",".join(properties.listing(key)) or None


@dataclass(frozen=True, slots=True)
class Opening:
    """A public operation: whole path (a Spring path pattern), one method or ANY."""

    method: str
    path: str


@dataclass(frozen=True, slots=True)
class RoleRule:
    """Who may use what lies below a path; `method` is one method or ANY."""

    method: str
    path: str
    roles: frozenset[str]


@dataclass(frozen=True, slots=True)
class LimitRule:
    """A limit per client address for some paths; requests in one window."""

    bucket: str
    paths: tuple[str, ...]
    limit: int


@dataclass(frozen=True, slots=True)
class Limits:
    """All limits; `user` and `ip` hold where no rule does, `exempt` paths are never counted."""

    window_s: int
    user: int
    ip: int
    rules: tuple[LimitRule, ...]
    exempt: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cors:
    """Fetch standard; each list may hold `*`, and an origin's pattern anywhere in it."""

    origins: frozenset[str]
    methods: tuple[str, ...]
    headers: tuple[str, ...]
    exposed: tuple[str, ...]
    max_age_s: int | None
    patterns: tuple[str, ...] = ()
    credentials: bool = False

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> "Cors":
        """Read a CorsConfiguration of Spring's; what it leaves out is not allowed.

        Raises:
            ValueError: credentials for any origin, or an age that is no number.
        """
        given = {str(key).replace("-", "").lower(): value for key, value in tree.items()}

        def listed(key: str, default: str = "") -> tuple[str, ...]:
            return tuple(item for item in _list(given.get(key, default)) if item)

        age, credentials = given.get("maxage"), str(given.get("allowcredentials")) == "true"
        origins = frozenset(origin.rstrip("/") for origin in listed("allowedorigins"))
        if credentials and "*" in origins:
            raise ValueError("allowCredentials needs origins by name, or allowedOriginPatterns")
        return cls(
            origins=origins,
            methods=listed("allowedmethods", "GET,HEAD"),
            headers=listed("allowedheaders"),
            exposed=listed("exposedheaders"),
            max_age_s=int(age) if age is not None else None,
            patterns=listed("allowedoriginpatterns"),
            credentials=credentials,
        )


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """Spring's `spring.data.redis.*`; `timeout_s` is the time one answer may take."""

    host: str
    port: int
    database: int
    username: str | None
    password: str | None = field(repr=False)
    tls: bool
    timeout_s: float


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How upstreams are spoken to by TLS, `httpclient.ssl.*`.

    Attributes:
        told: what the configuration says, by which one is told from another.
        context: None when nothing is said: the system's authorities are trusted then.
    """

    told: tuple[tuple[str, str], ...] = field(repr=False)
    context: ssl.SSLContext | None = field(repr=False, compare=False)

    @classmethod
    def of(cls, properties: Properties) -> "ClientTls":
        """Read authorities (PEM files) and the key store (PKCS12, or PEM).

        Raises:
            ConfigurationError: a file cannot be used.
        """
        prefix = spring_key(properties, "httpclient.ssl")
        files = properties.listing(f"{prefix}.trusted-x509-certificates")
        insecure = properties.boolean(f"{prefix}.use-insecure-trust-manager", default=False)
        keys = ("key-store", "key-store-type", "key-store-password", "key-password")
        shown = {key: value for key in keys if (value := properties.get(f"{prefix}.{key}"))}
        told = (*shown.items(), *(("trusted", file) for file in files), ("insecure", str(insecure)))
        if not (files or insecure or shown):
            return cls(told, None)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        tls.trust(context, properties, f"{prefix}.trusted-x509-certificates", files)
        tls.identify(context, properties, prefix)
        if insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return cls(told, context)


@dataclass(frozen=True, slots=True)
class Settings:
    """Typed settings; spans in seconds, sizes in bytes.

    Attributes:
        blacklist_grace_s: how long after Redis' last good answer a token passes unchecked.
        answer_timeout_s: until the head of an upstream's answer.
        stall_timeout_s: between two reads or writes of a body.
        websocket_idle_s: without a byte in either direction.
        acquire_timeout_s: how long a call waits for a connection when all are busy.
        max_in_flight: calls of one route that wait for their answers, in all workers together.
        trusted_pattern: Spring's expression for addresses that are trusted like `trusted_proxies`.
        cors_by_path: path patterns that have rules of their own.
        actuator: base path of the gateway's own endpoints, which no route ever takes.
        management_port: where nothing else is, None where it is also at the main one.
        unsaid: forwarding headers that services are not told.
        hop_by_hop: further headers that end here, in lower case.
        appends: a trusted proxy's X-Forwarded-For is continued, not begun anew.
        max_answer_head: of an upstream's answer.
        tls: whom upstreams must have their certificates from, and what they are shown.
    """

    secret: str = field(repr=False)
    trusted_proxies: Networks
    trusted_pattern: re.Pattern[str] | None
    public: tuple[Opening, ...]
    compat: tuple[Opening, ...]
    roles: tuple[RoleRule, ...]
    limits: Limits
    cors: Cors
    cors_by_path: tuple[tuple[str, Cors], ...]
    redis: RedisSettings
    blacklist_grace_s: float
    connect_timeout_s: float
    answer_timeout_s: float
    stall_timeout_s: float
    head_timeout_s: float
    idle_timeout_s: float
    websocket_idle_s: float
    websocket: bool
    pool_idle_s: float
    pool_life_s: float
    pool_size: int
    acquire_timeout_s: float
    tls: ClientTls
    max_in_flight: int
    absent_is_404: bool
    max_head: int
    max_body: int
    compat_port: int
    sampling: float
    actuator: str
    management_port: int | None
    unsaid: frozenset[bytes]
    hop_by_hop: frozenset[bytes]
    appends: bool
    max_answer_head: int

    @classmethod
    def of(cls, properties: Properties) -> "Settings":
        """Read the settings.

        Raises:
            ConfigurationError: a value cannot be used.
        """

        def seconds(key: str, default: float) -> float:
            return properties.duration(key, timedelta(seconds=default)).total_seconds()

        def boot(name: str, own: str, default: float) -> float:
            # An MVC gateway's client is Spring Boot's.
            return seconds(f"spring.http.client.{name}", seconds(own, default))

        def client(name: str) -> str:
            return spring_key(properties, f"httpclient.{name}")

        _refuse(properties)
        return cls(
            secret=jwt_secret(properties),
            trusted_proxies=trusted_proxies(properties),
            trusted_pattern=_pattern(properties, spring_key(properties, "trusted-proxies")),
            public=_openings(properties, "public"),
            compat=_openings(properties, "compat"),
            roles=_roles(properties),
            limits=_limits(properties),
            cors=_cors(properties),
            cors_by_path=_global_cors(properties),
            redis=_redis(properties),
            blacklist_grace_s=seconds(f"{_PREFIX}.blacklist-grace", 60),
            connect_timeout_s=seconds(
                client("connect-timeout"), boot("connect-timeout", f"{_PREFIX}.timeouts.connect", 2)
            ),
            answer_timeout_s=seconds(
                client("response-timeout"), boot("read-timeout", f"{_PREFIX}.timeouts.answer", 10)
            ),
            stall_timeout_s=seconds(f"{_PREFIX}.timeouts.stall", 30),
            head_timeout_s=seconds(f"{_PREFIX}.timeouts.head", 10),
            idle_timeout_s=seconds(f"{_PREFIX}.timeouts.idle", 75),
            websocket_idle_s=seconds(f"{_PREFIX}.timeouts.websocket", 600),
            websocket=properties.boolean(
                spring_key(properties, "global-filter.websocket-routing.enabled"), default=True
            ),
            pool_idle_s=seconds(client("pool.max-idle-time"), 30),
            pool_life_s=_pool_life_s(properties),
            pool_size=properties.integer(client("pool.max-connections"), 1000, minimum=1),
            acquire_timeout_s=seconds(client("pool.acquire-timeout"), 0),
            tls=ClientTls.of(properties),
            max_in_flight=properties.integer(f"{_PREFIX}.max-in-flight", 1000, minimum=1),
            absent_is_404=properties.boolean(
                spring_key(properties, "loadbalancer.use404"), default=False
            ),
            max_head=properties.data_size(f"{_PREFIX}.max-head-size", 16 * 1024),
            max_body=properties.data_size(f"{_PREFIX}.max-body-size", 1024 * 1024),
            compat_port=properties.integer(f"{_PREFIX}.compat-port", 0, minimum=0, maximum=65535),
            sampling=properties.number(
                "management.tracing.sampling.probability", 0.1, minimum=0, maximum=1
            ),
            actuator=base_path(properties),
            management_port=own_port(properties),
            unsaid=_unsaid(properties),
            hop_by_hop=frozenset(
                name.strip().lower().encode()
                for name in properties.listing(
                    spring_key(properties, "filter.remove-hop-by-hop.headers")
                )
            ),
            appends=properties.boolean(
                spring_key(properties, "x-forwarded.for-append"), default=True
            ),
            max_answer_head=properties.data_size(client("max-header-size"), 64 * 1024),
        )


def _pool_life_s(properties: Properties) -> float:
    key = spring_key(properties, "httpclient.pool.max-life-time")
    kind = properties.text(spring_key(properties, "httpclient.pool.type"), "ELASTIC").upper()
    if kind == "DISABLED":
        return 0.0  # no connection is used twice
    span = properties.duration(key, timedelta(0)).total_seconds()
    return span if properties.get(key) else inf


def _refuse(properties: Properties) -> None:
    """Refuse what must not be passed over in silence.

    Raises:
        ConfigurationError: such a key is set.
    """
    for name, reason in _REFUSED.items():
        key = spring_key(properties, name)
        if properties.get(key):
            raise properties.wrong(key, reason)


def ignored(properties: Properties) -> Mapping[str, str]:
    """List Spring's keys that are set and change nothing here, each with the reason."""
    found = {}
    for name, (same, reason) in _IGNORED.items():
        key = spring_key(properties, name)
        held = properties.get(key)
        if held.lower() != same if held else properties.tree(key, lenient=True):
            found[key] = reason
    return found


def _unsaid(properties: Properties) -> frozenset[bytes]:
    def on(name: str) -> bool:
        return properties.boolean(spring_key(properties, name), default=True)

    every = on("x-forwarded.enabled")
    parts = ("for", "host", "port", "proto", "prefix")
    off = {
        f"x-forwarded-{part}" for part in parts if not (every and on(f"x-forwarded.{part}-enabled"))
    }
    if not on("forwarded.enabled"):
        off.add("forwarded")
    return frozenset(name.encode() for name in off)


def _wrong(properties: Properties, key: str, fault: str) -> ConfigurationError:
    origin = properties.origin(f"{key}[0]") or properties.origin(key)
    return ConfigurationError(f"{properties.application}: {key} {fault} (from {origin})")


def _pattern(properties: Properties, key: str) -> re.Pattern[str] | None:
    text = properties.get(key)
    try:
        return re.compile(text) if text else None
    except re.error:
        raise _wrong(properties, key, "is no regular expression") from None


def _openings(properties: Properties, name: str) -> tuple[Opening, ...]:
    key = f"{_PREFIX}.{name}"
    found = []
    for line in properties.listing(key):
        method, _, path = line.partition(" ")
        if not path.startswith("/"):
            raise _wrong(properties, key, "is not a list of 'METHOD /path'")
        found.append(Opening(method.upper(), path.strip()))
    return tuple(found)


def _items(properties: Properties, key: str) -> Sequence[Any]:
    found = properties.tree(key) or []
    if not isinstance(found, list):
        raise _wrong(properties, key, "is not a list")
    return found


def _roles(properties: Properties) -> tuple[RoleRule, ...]:
    key = f"{_PREFIX}.roles"
    try:
        return tuple(
            RoleRule(rule["method"].upper(), rule["path"], frozenset(_list(rule["roles"])))
            for rule in _items(properties, key)
        )
    except (KeyError, TypeError, AttributeError):
        raise _wrong(properties, key, "needs method, path and roles in each rule") from None


def _limits(properties: Properties) -> Limits:
    key = f"{_PREFIX}.limits"
    try:
        rules = tuple(
            LimitRule(rule["bucket"], tuple(_list(rule["paths"])), int(rule["limit"]))
            for rule in _items(properties, f"{key}.rules")
        )
    except (KeyError, TypeError, ValueError):
        raise _wrong(properties, f"{key}.rules", "needs bucket, paths and limit in each") from None
    return Limits(
        window_s=max(
            1, round(properties.duration(f"{key}.window", timedelta(seconds=60)).total_seconds())
        ),
        user=properties.integer(f"{key}.user", 200, minimum=1),
        ip=properties.integer(f"{key}.ip", 100, minimum=1),
        rules=rules,
        exempt=properties.listing(f"{key}.exempt"),
    )


def _list(value: Any) -> list[str]:
    items = value if isinstance(value, list) else str(value).split(",")
    return [str(item).strip() for item in items]


def _cors(properties: Properties) -> Cors:
    key = "nozie.cors"
    age = properties.get(f"{key}.max-age")
    return Cors(
        origins=frozenset(properties.listing(f"{key}.allowed-origins", ("*",))),
        methods=properties.listing(
            f"{key}.allowed-methods", ("GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "HEAD")
        ),
        headers=properties.listing(f"{key}.allowed-headers", ("*",)),
        exposed=properties.listing(
            f"{key}.exposed-headers", ("X-Correlation-Id", "X-Total-Count", "Retry-After")
        ),
        max_age_s=properties.integer(f"{key}.max-age", 0, minimum=0) if age else None,
    )


def _global_cors(properties: Properties) -> tuple[tuple[str, Cors], ...]:
    key = spring_key(properties, "globalcors.cors-configurations")
    try:
        found = [(path, Cors.of(tree)) for path, tree in properties.tree(key).items()]
    except (ValueError, AttributeError) as fault:
        raise _wrong(properties, key, f"cannot be used: {fault}") from None
    # The longer a pattern, the closer it is.
    return tuple(sorted(found, key=lambda pair: -len(pair[0])))


def _redis(properties: Properties) -> RedisSettings:
    key = "spring.data.redis"
    timeout = properties.duration(f"{_PREFIX}.redis-timeout", timedelta(milliseconds=250))
    return RedisSettings(
        host=properties.text(f"{key}.host", "localhost"),
        port=properties.integer(f"{key}.port", 6379, minimum=1, maximum=65535),
        database=properties.integer(f"{key}.database", 0, minimum=0),
        username=properties.get(f"{key}.username") or None,
        password=properties.get(f"{key}.password") or None,
        tls=properties.boolean(f"{key}.ssl.enabled", default=False),
        timeout_s=timeout.total_seconds(),
    )
