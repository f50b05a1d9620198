"""The order of work: what every request passes before the first route that matches may have it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

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
    Definition,
    Exchange,
    Filter,
    Handler,
    Reply,
    TooLargeError,
    Tools,
    TooSlowError,
    message,
)
from gateway.filters import build
from gateway.filters.circuit_breaker import circuit_breaker
from gateway.filters.request_size import limit_of
from gateway.handler.access import AccessRules
from gateway.handler.cors import CorsRules
from gateway.handler.guard import Guard
from gateway.handler.tokens import Identity, Tokens
from gateway.proxy import Proxy
from gateway.route import Route, RouteTable, load
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
        clock: Clock = utc_now,
    ) -> "Rules":
        """Compile; a route that cannot be used is left out, with its reason in the log.

        Raises:
            ConfigurationError: a breaker's setting cannot be used.
        """
        breakers = Breakers(properties)
        return cls(
            settings,
            load(properties, partial(chain, proxy=proxy, tools=tools(breakers), settings=settings)),
            AccessRules(settings),
            CorsRules(settings.cors),
            Tokens(settings.secret, clock),
            breakers,
        )


def chain(route: Route, *, proxy: Proxy, tools: Tools, settings: Settings) -> Handler:
    """Build what a route does with a request: its filters, outermost first, then the call.

    Raises:
        ValueError: one of its filters does not exist or cannot take its arguments.
    """
    handler: Handler = partial(_last, proxy=proxy, tools=tools, route=route)
    sizes = [definition for definition in route.filters if definition.name == _OWN_LIMIT]
    limit = limit_of(sizes[-1]) if sizes else settings.max_body
    for definition in reversed(route.filters):
        handler = _around(build(definition, tools), handler)
    if all(definition.name != "CircuitBreaker" for definition in route.filters):
        # No route goes without, wherever the list of routes comes from.
        handler = _around(circuit_breaker(_default_breaker(route), tools), handler)
    return partial(_limited, proceed=handler, limit=limit)


def _around(apply: Filter, proceed: Handler) -> Handler:
    async def handle(exchange: Exchange) -> Reply:
        return await apply(exchange, proceed)

    return handle


def _default_breaker(route: Route) -> Definition:
    """Name it as the estate's YAML does: `movieServiceCircuitBreaker`."""
    service = route.target.name if route.target.scheme == "lb" else route.id
    first, *others = service.replace("_", "-").split("-")
    name = first + "".join(part.capitalize() for part in others)
    return Definition("CircuitBreaker", {"name": f"{name}CircuitBreaker"})


async def _limited(exchange: Exchange, *, proceed: Handler, limit: int) -> Reply:
    if exchange.body is not None:
        exchange.body.limit = limit
        if (exchange.body.length or 0) > limit:
            raise TooLargeError("Request body is too large")
    return await proceed(exchange)


async def _last(exchange: Exchange, *, proxy: Proxy, tools: Tools, route: Route) -> Reply:
    if route.target.scheme == "forward":
        return await tools.forward(exchange, route.target.name)
    return await proxy.call(exchange, route)


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
        return reply

    async def _admitted(self, exchange: Exchange) -> Reply:
        rules = self.rules
        access = rules.access.of(exchange.method, exchange.path)
        if exchange.compat and not access.compat:
            raise NotFoundError("Resource not found")
        found = rules.table.find(exchange)
        identity = self._identify(exchange, rules, needed=found is not None and not access.public)
        if found is not None and access.roles and identity is None:
            raise UnauthenticatedError("Authorization header is missing")
        limits, grace_s = rules.settings.limits, rules.settings.blacklist_grace_s
        try:
            await self._guard.check(
                exchange.method, exchange.client, identity, access, limits, grace_s
            )
        except UnauthenticatedError:
            if found is not None and not access.public:
                raise
            # On a public path a token that was revoked is no token.
            identity = None
            await self._guard.check(exchange.method, exchange.client, None, access, limits, grace_s)
        if found is None:
            return await self._local(exchange)
        if identity is not None:
            principal = exchange.principal = identity.principal
            if any(principal.roles.isdisjoint(wanted) for wanted in access.roles):
                raise DeniedError("Role is missing")
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


def answer(error: CloudError) -> Reply:
    """Turn a failure into the gateway's own short answer."""
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    extra: list[tuple[bytes, bytes]] = []
    if isinstance(error, UnauthenticatedError):
        extra.append((b"WWW-Authenticate", b"Bearer"))
    if isinstance(error, ThrottledError):
        extra.append((b"Retry-After", b"%d" % max(1, round(error.retry_after.total_seconds()))))
    return message(status, str(error), *extra)
