"""The order of work: what every request passes before the first route that matches may have it."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from typing import Any

import structlog

from cloud.breaker import Breakers
from cloud.clock import Clock, utc_now
from cloud.config import Properties
from cloud.errors import (
    CloudError,
    DeadlineError,
    DeniedError,
    InvalidError,
    NotFoundError,
    ThrottledError,
    UnauthenticatedError,
    UnavailableError,
    UpstreamError,
)
from gateway.exchange import (
    LOCAL_CACHE,
    BusyError,
    Definition,
    Exchange,
    Filter,
    Handler,
    NoInstanceError,
    Reply,
    Stream,
    TooLargeError,
    Tools,
    TooSlowError,
    decoded,
    message,
)
from gateway.filters import build
from gateway.filters.local_response_cache import everywhere
from gateway.filters.request_size import limit_of
from gateway.handler.access import Access, AccessRules
from gateway.handler.cors import VARY, CorsRules
from gateway.handler.guard import Guard
from gateway.handler.tokens import Identity, Tokens
from gateway.proxy import Proxy
from gateway.route import REFUSED, Reader, Route, RouteTable, definitions, load
from gateway.settings import Settings

log = structlog.get_logger(__name__)

_STATUS: Sequence[tuple[type[CloudError], int]] = (
    (TooLargeError, 413),
    (TooSlowError, 408),
    (InvalidError, 400),
    (UnauthenticatedError, 401),
    (DeniedError, 403),
    (NotFoundError, 404),
    (ThrottledError, 429),
    (UpstreamError, 502),
    (UnavailableError, 503),
    (DeadlineError, 504),
)
_OWN_LIMIT = "RequestSize"

# Where the operator's page keeps his token: a browser sends no bearer token by itself.
COOKIE = "nozie-ops"
_OPS = re.compile("/ops(?:/|$)")
_KEPT_TOKEN = re.compile(rb"(?:^|;\s*)nozie-ops=([\w\-.]+)(?:;|$)")
_MOVES = frozenset({"StripPrefix", "PrefixPath", "SetPath", "RewritePath"})
_PREFIX = b"x-forwarded-prefix"
_MOST_FORWARDS = 3
_ACTUATOR = "/actuator"

# Asks the limits for a path that filters made of the one at the door.
Count = Callable[[Exchange, Access], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Rules:
    """All that the configuration says, compiled; replaced whole when it changes."""

    settings: Settings = field(repr=False)
    table: RouteTable
    access: AccessRules
    cors: CorsRules
    tokens: Tokens
    breakers: Breakers

    @classmethod
    def of(
        cls,
        settings: Settings,
        properties: Properties,
        proxy: Proxy,
        tools: Callable[[Breakers], Tools],
        guard: Guard,
        clock: Clock = utc_now,
        *,
        added: Sequence[Mapping[str, Any]] = (),
        services: Sequence[str] = (),
        share: int = 1,
    ) -> "Rules":
        """Compile; a route that cannot be used is left out, with its reason in the log.

        Args:
            settings: the gateway's own.
            properties: for the routes, and for breakers.
            proxy: calls upstreams.
            tools: what filters lean on, for these breakers.
            guard: counts.
            clock: for tokens.
            added: routes beside the configuration's.
            services: ids in the registry, for the discovery locator.
            share: workers among which a route's limit is divided.

        Raises:
            ConfigurationError: a setting of breakers or caches cannot be used.
        """
        breakers = Breakers(properties)
        access = AccessRules(settings)
        lent = replace(tools(breakers), share=share)

        async def count(exchange: Exchange, behind: Access) -> None:
            limits, grace_s = settings.limits, settings.blacklist_grace_s
            await guard.check(exchange.method, exchange.client, None, behind, limits, grace_s)

        bind = partial(
            chain,
            proxy=proxy,
            tools=lent,
            settings=settings,
            access=access,
            count=count,
            cached=everywhere(lent),
        )
        table = load(properties, bind, added=added, services=services)
        closer = [
            (path, route.cors) for route, _ in table.bound if route.cors for path in route.paths
        ]
        return cls(
            settings,
            table,
            access,
            CorsRules(
                settings.cors, settings.cors_by_path, closer, partial(_is_own, settings=settings)
            ),
            Tokens(settings.secret, clock),
            breakers,
        )


def chain(
    route: Route,
    *,
    proxy: Proxy,
    tools: Tools,
    settings: Settings,
    access: AccessRules,
    count: Count,
    cached: Filter | None = None,
) -> Handler:
    """Build what a route does with a request: its filters, outermost first, then the call.

    Raises:
        ValueError: one of its filters does not exist or cannot take its arguments.
    """
    handler = _last(proxy, tools, route)
    if settings.hop_by_hop:
        handler = partial(_without_hops, proceed=handler, names=settings.hop_by_hop)
    if route.located or any(definition.name in _MOVES for definition in route.filters):
        handler = partial(_ensure_allowed, proceed=handler, access=access, route=route, count=count)
        if _PREFIX not in settings.unsaid:
            handler = partial(_prefixed, proceed=handler)
    most = route.max_in_flight if route.max_in_flight is not None else settings.max_in_flight
    handler = _Gate(handler, -(-most // tools.share)).handle
    sizes = [definition for definition in route.filters if definition.name == _OWN_LIMIT]
    limit = limit_of(sizes[-1]) if sizes else settings.max_body
    for definition in reversed(_filters(route)):
        handler = _around(build(definition, tools), handler)
    if cached is not None and all(one.name != LOCAL_CACHE for one in route.filters):
        handler = _around(cached, handler)
    return _limited(handler, limit, refuses=not sizes)


def _filters(route: Route) -> Sequence[Definition]:
    """Add a circuit breaker: no route goes without, wherever the list of routes comes from.

    What a cache holds also serves while the breaker is open.
    """
    if any(definition.name == "CircuitBreaker" for definition in route.filters):
        return route.filters
    own = list(route.filters)
    at = sum(definition.name == LOCAL_CACHE for definition in own[:1])
    return [*own[:at], _default_breaker(route), *own[at:]]


def refusal(
    definition: Mapping[str, Any], properties: Properties, added: Sequence[Mapping[str, Any]]
) -> str | None:
    """Tell why a route's definition cannot be used; None when it can."""

    async def nowhere(*_: object) -> Any:
        raise UnavailableError("not in use")

    tools = Tools(Breakers(properties).get, nowhere, nowhere)
    try:
        route = Reader(properties, [*definitions(properties, added), definition]).route(definition)
        for one in route.filters:
            build(one, tools)
    except REFUSED as refused:
        return f"{type(refused).__name__}: {refused}"
    return None


class _Gate:
    """Counts a route's calls that wait for the head of their answer, and lets in so many.

    One slow service must not hold all connections and memory that the others need.
    """

    def __init__(self, proceed: Handler, most: int) -> None:
        self._proceed = proceed
        self._most = most
        self._waiting = 0

    async def handle(self, exchange: Exchange) -> Reply:
        if self._waiting >= self._most:
            raise BusyError("Too many requests wait for this service")
        self._waiting += 1
        try:
            return await self._proceed(exchange)
        finally:
            self._waiting -= 1


async def _ensure_allowed(
    exchange: Exchange, *, proceed: Handler, access: AccessRules, route: Route, count: Count
) -> Reply:
    """Hold the platform's rules against the path that the service will see.

    Its actuator is for whom it knows itself; it would take everybody who comes this way for us.
    """
    if route.target.scheme != "forward" and _is_below(exchange.path, _ACTUATOR):
        raise NotFoundError("Resource not found")
    behind = access.of(exchange.method, exchange.path)
    _ensure_roles(exchange, behind.roles)
    if behind.rule is not None:
        door = decoded(exchange.came).removeprefix(route.located) or "/"
        if access.of(exchange.method, door).rule is not behind.rule:
            await count(exchange, behind)
    return await proceed(exchange)


async def _prefixed(exchange: Exchange, *, proceed: Handler) -> Reply:
    """Tell a service what was cut off before the path that it sees."""
    before, after = exchange.came.rstrip("/"), exchange.raw_path.rstrip("/")
    if before != after and before.endswith(after):
        cut = before[: len(before) - len(after)].encode()
        kept = [held for held in exchange.headers if held[0] != _PREFIX]
        exchange.headers = [*kept, (_PREFIX, cut)]
    return await proceed(exchange)


async def _without_hops(exchange: Exchange, *, proceed: Handler, names: frozenset[bytes]) -> Reply:
    """Take away, in both directions, what the estate counts among a connection's own headers."""
    exchange.headers = [held for held in exchange.headers if held[0] not in names]
    reply = await proceed(exchange)
    reply.headers = [held for held in reply.headers if held[0].lower() not in names]
    return reply


def _is_own(exchange: Exchange, settings: Settings) -> bool:
    """Tell whether it is for the gateway's own management."""
    own = _is_below(exchange.path, settings.actuator)
    return own or exchange.port == settings.management_port


def _is_below(path: str, base: str) -> bool:
    return path.startswith(base) and path[len(base) : len(base) + 1] in {"", "/"}


def _ensure_roles(exchange: Exchange, wanted: Sequence[frozenset[str]]) -> None:
    if not wanted:
        return
    if exchange.principal is None:
        raise UnauthenticatedError("Authorization header is missing")
    if any(exchange.principal.roles.isdisjoint(roles) for roles in wanted):
        raise DeniedError("Role is missing")


def _around(apply: Filter, proceed: Handler) -> Handler:
    # No coroutine of its own: each one costs its share of every request.
    return lambda exchange: apply(exchange, proceed)


def _default_breaker(route: Route) -> Definition:
    """Name it as the estate's YAML does: `movieServiceCircuitBreaker`."""
    service = route.target.name if route.target.scheme == "lb" else route.id
    first, *others = service.replace("_", "-").split("-")
    name = first + "".join(part.capitalize() for part in others)
    return Definition("CircuitBreaker", {"name": f"{name}CircuitBreaker"})


def _limited(proceed: Handler, limit: int, *, refuses: bool) -> Handler:
    """Bound a request's body; what is too long by its own word RequestSize refuses itself."""

    def handle(exchange: Exchange) -> Awaitable[Reply]:
        exchange.came = exchange.raw_path
        if exchange.body is not None:
            exchange.body.limit = limit
            length = exchange.body.length or 0
            if refuses and length > limit:
                raise TooLargeError("Request body is too large")
            if 0 < length <= Stream.HIGH and not exchange.body.ended:
                return _with_whole_body(exchange, exchange.body, proceed)
        return proceed(exchange)

    return handle


async def _with_whole_body(exchange: Exchange, body: Stream, proceed: Handler) -> Reply:
    """Let a slow client take its own time, not that of a service, whose threads are few."""
    await body.gathered()
    return await proceed(exchange)


def _last(proxy: Proxy, tools: Tools, route: Route) -> Handler:
    if route.target.scheme == "forward":
        return lambda exchange: tools.forward(exchange, route.target.name)
    return lambda exchange: proxy.call(exchange, route)


class Gateway:
    """Handles exchanges by the rules in force."""

    def __init__(self, rules: Rules, guard: Guard, local: Handler) -> None:
        self.rules = rules
        self._guard = guard
        self._local = local

    async def handle(self, exchange: Exchange) -> Reply:
        """Answer one exchange, whatever happens."""
        cors = self.rules.cors
        try:
            reply = cors.refusal(exchange) or await self._admitted(exchange)
        except CloudError as error:
            reply = answer(error)
        if exchange.origin is not None:
            reply.headers.extend(cors.headers(exchange))
        reply.headers.append(VARY)
        return reply

    async def forward(self, exchange: Exchange, path: str) -> Reply:
        """Answer as a local path does, else as the route for it; whatever the method.

        Raises:
            UnavailableError: the route could not have the body, which went elsewhere already, or
                routes lead to each other in a circle.
        """
        sent_on = replace(
            exchange, path=decoded(path), raw_path=path, forwards=exchange.forwards + 1
        )
        reply = await self._local(sent_on)
        if reply.status != HTTPStatus.NOT_FOUND:
            return reply
        found = self.rules.table.find(sent_on)
        if found is None:
            return reply
        if sent_on.forwards > _MOST_FORWARDS:
            raise UnavailableError("Routes lead to each other in a circle")
        if sent_on.body is not None and sent_on.body.spent:
            raise UnavailableError("Service is temporarily unavailable")
        _ensure_roles(sent_on, self.rules.access.of(sent_on.method, sent_on.path).roles)
        return await found[1](sent_on)

    async def _admitted(self, exchange: Exchange) -> Reply:
        rules = self.rules
        access = rules.access.of(exchange.method, exchange.path)
        if exchange.compat and not access.compat:
            raise NotFoundError("Resource not found")
        # As with Spring, an endpoint of our own goes before any route, however wide that is.
        own = _is_own(exchange, rules.settings)
        found = None if own else rules.table.find(exchange)
        if found is not None and found[0].located:
            # A service's own path in disguise: what holds for the one holds for the other.
            behind = exchange.path.removeprefix(found[0].located) or "/"
            access = rules.access.of(exchange.method, behind)
        if found is None and exchange.authorization is None and _OPS.match(exchange.path):
            exchange.authorization = _kept_token(exchange)
        identity = self._identify(exchange, rules, needed=found is not None and not access.public)
        if found is not None and access.roles and identity is None:
            raise UnauthenticatedError("Authorization header is missing")
        limits, grace_s = rules.settings.limits, rules.settings.blacklist_grace_s
        try:
            identity = await self._guard.check(
                exchange.method, exchange.client, identity, access, limits, grace_s
            )
        except UnauthenticatedError:
            if found is not None and not access.public:
                raise
            # On a public path a token that was revoked is no token.
            identity = None
            await self._guard.check(exchange.method, exchange.client, None, access, limits, grace_s)
        if identity is not None:
            exchange.principal = identity.principal
        if found is None:
            return await self._local(exchange)
        _ensure_roles(exchange, access.roles)
        if identity is not None:
            exchange.headers += identity.headers
        route, handler = found
        exchange.route = route.id
        return await handler(exchange)

    @staticmethod
    def _identify(exchange: Exchange, rules: Rules, *, needed: bool) -> Identity | None:
        if exchange.authorization is None and not needed:
            return None
        try:
            return rules.tokens.identify(exchange.authorization)
        except UnauthenticatedError:
            if needed:
                raise
            return None


def _kept_token(exchange: Exchange) -> bytes | None:
    """Read the cookie of the operator's page, which no route ever sees, as a bearer token."""
    found = _KEPT_TOKEN.search(exchange.header(b"cookie") or b"")
    return b"Bearer " + found[1] if found else None


def answer(error: CloudError) -> Reply:
    """Turn a failure into the gateway's own short answer."""
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    extra: list[tuple[bytes, bytes]] = []
    if isinstance(error, UnauthenticatedError):
        extra.append((b"WWW-Authenticate", b"Bearer"))
    if isinstance(error, NoInstanceError):
        status = error.status
    if isinstance(error, BusyError):
        extra.append((b"Retry-After", b"1"))
    if isinstance(error, ThrottledError):
        extra.append((b"Retry-After", b"%d" % max(1, round(error.retry_after.total_seconds()))))
    return message(status, str(error), *extra)
