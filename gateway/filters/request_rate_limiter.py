"""RequestRateLimiter: a token bucket in Redis, shared with Spring's RedisRateLimiter."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cloud.errors import UnavailableError
from gateway.exchange import (
    BusyError,
    Definition,
    Exchange,
    Filter,
    Handler,
    Headers,
    Reply,
    Script,
    Tools,
    message,
    span_of,
    status_of,
)

# Same keys, arithmetic and time to live as Spring's; seconds are the server's own.
BUCKET = Script(
    """
local rate, capacity, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now = tonumber(redis.call('TIME')[1])
local held = tonumber(redis.call('GET', KEYS[1])) or capacity
local since = tonumber(redis.call('GET', KEYS[2])) or 0
local filled = math.min(capacity, held + math.max(0, now - since) * rate)
local allowed = filled >= wanted and 1 or 0
local left = filled - allowed * wanted
local life = math.floor(capacity / rate * 2)
if life > 0 then
  redis.call('SETEX', KEYS[1], life, left)
  redis.call('SETEX', KEYS[2], life, now)
end
return {allowed, left}
"""
)


_REDIS, _BUCKET4J = "redis-rate-limiter", "bucket4j-rate-limiter"
# What tells how many tokens a bucket gains, how many it holds, and in which time it gains them.
_NAMES = {
    _BUCKET4J: ("refillTokens", "capacity", "refillPeriod"),
    _REDIS: ("replenishRate", "burstCapacity", "replenishPeriod"),
}
_LIMITERS = ("#{@redisRateLimiter}", "#{@bucket4jRateLimiter}")


def _user(exchange: Exchange) -> str | None:
    return str(exchange.principal.user_id) if exchange.principal else None


def _name(exchange: Exchange) -> str | None:
    return exchange.principal.username if exchange.principal else None


# Beans of an estate by their usual names; nothing in `#{@name}` is ever evaluated.
RESOLVERS: Mapping[str, Callable[[Exchange], str | None]] = {
    "principalNameKeyResolver": _name,
    "userKeyResolver": _user,
    "ipKeyResolver": lambda exchange: exchange.client,
    "remoteAddrKeyResolver": lambda exchange: exchange.client,
    "hostAddrKeyResolver": lambda exchange: exchange.client,
    "pathKeyResolver": lambda exchange: exchange.path,
}


@dataclass(frozen=True, slots=True)
class _Bucket:
    """So many requests a period, so many of them at once.

    Spring's script counts per second. A longer period multiplies what a request costs and what
    the bucket holds: 5 a minute is a bucket of 5 x 60 that gains 5 a second, each request taking
    60. Numbers stay whole, and a JVM gateway that is set so shares the bucket.
    """

    rate: int
    capacity: int
    wanted: int
    period_s: int

    @classmethod
    def of(cls, args: Mapping[str, Any]) -> "_Bucket":
        kind = next((k for k in _NAMES if any(a.startswith(k) for a in args)), _REDIS)
        nested = args.get(kind) or {}

        def given(name: str, default: object) -> str:
            return str(args.get(f"{kind}.{name}", nested.get(name, default)))

        rated, holds, every = _NAMES[kind]
        rate, wanted = int(given(rated, 0)), int(given("requestedTokens", 1))
        capacity = int(given(holds, rate))
        period = span_of(given(every, "1s")).total_seconds()
        if period < 1 or period != int(period):
            raise ValueError(f"{every} is no number of whole seconds")
        # A bucket that is full again within a second would never be seen empty.
        least = rate if kind == _REDIS else rate / period
        if rate < 1 or capacity < max(1, least) or wanted < 0:
            raise ValueError(f"needs {rated} >= 1 and a {holds} of at least {least:g}")
        if (style := given("refillStyle", "GREEDY").upper()) != "GREEDY":
            raise ValueError(f"refillStyle {style}: buckets here gain their tokens evenly")
        return cls(rate, capacity, wanted, int(period))

    @property
    def words(self) -> tuple[int, int, int]:
        """What the script is given: rate, capacity, wanted."""
        return self.rate, self.capacity * self.period_s, self.wanted * self.period_s

    def wait_s(self, left: int) -> int:
        """Tell when the next request has a chance."""
        return max(1, -(-(self.wanted * self.period_s - left) // self.rate))


def request_rate_limiter(definition: Definition, tools: Tools) -> Filter:
    """Build the filter from its long form; Spring's arguments, and three more.

    Bucket4j's arguments make the same bucket (`bucket4j-rate-limiter.capacity`, `refillTokens`,
    `refillPeriod`), in Redis as well.

    `redis-rate-limiter.replenishPeriod` (1s) is the time in which the bucket gains its
    `replenishRate`. `when-redis-is-away` is `allow`, as in Spring, or `deny`: then 503. With
    `across-routes` a caller has one bucket for all routes, as in Spring Cloud Gateway before 4.2
    (its issue 2288); since then each route has its own.

    Raises:
        ValueError: a rate or capacity that makes no bucket, or an unknown resolver or limiter.
    """
    args = definition.args
    bucket, resolve = _Bucket.of(args), _resolver(args)
    status = status_of(str(args.get("statusCode", args.get("status-code", 429))))
    if (limiter := str(args.get("rate-limiter", _LIMITERS[0]))) not in _LIMITERS:
        raise ValueError(f"rate-limiter {limiter} is none of {', '.join(_LIMITERS)}")
    deny_empty = _given(args, tools, "deny-empty-key", "denyEmptyKey", "true").lower() != "false"
    empty_status = status_of(
        _given(args, tools, "empty-key-status-code", "emptyKeyStatus", "FORBIDDEN")
    )
    away = str(args.get("when-redis-is-away", "allow"))
    if away not in {"allow", "deny"}:
        raise ValueError(f"when-redis-is-away {away} is neither allow nor deny")
    across = str(args.get("across-routes", "false")).lower() == "true"
    tell = _told(bucket, tools)

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        key = resolve(exchange)
        if not key:
            return (
                message(empty_status, "Access is denied") if deny_empty else await proceed(exchange)
            )
        owner = key if across else f"{exchange.route}.{key}"
        name = f"request_rate_limiter.{{{owner}}}"
        try:
            allowed, left = await tools.script(
                BUCKET, (f"{name}.tokens", f"{name}.timestamp"), bucket.words
            )
        except UnavailableError as error:
            if away == "deny":
                raise BusyError("Limits cannot be checked at the moment") from error
            allowed, left = 1, -bucket.period_s
        told = tell(left // bucket.period_s)
        if not allowed:
            wait = b"%d" % bucket.wait_s(left)
            return message(status, "Too many requests", *told, (b"Retry-After", wait))
        reply = await proceed(exchange)
        reply.headers.extend(told)
        return reply

    return apply


def _given(args: Mapping[str, Any], tools: Tools, name: str, long: str, default: str) -> str:
    """Read an argument of the route, else the option that Spring has for all routes."""
    general = tools.option(f"filter.request-rate-limiter.{name}")
    return str(args.get(name, args.get(long, general or default)))


def _told(bucket: _Bucket, tools: Tools) -> Callable[[int], Headers]:
    """Build the headers that tell what is left, by the names that the estate gives them."""

    def option(name: str, default: str) -> str:
        return tools.option(f"redis-rate-limiter.{name}") or default

    def named(name: str, default: str) -> bytes:
        return option(f"{name}-header", f"X-RateLimit-{default}").encode()

    if option("include-headers", "true").lower() == "false":
        return lambda _: []
    remaining = named("remaining", "Remaining")
    fixed = [
        (named("requested-tokens", "Requested-Tokens"), b"%d" % bucket.wanted),
        (named("burst-capacity", "Burst-Capacity"), b"%d" % bucket.capacity),
        (named("replenish-rate", "Replenish-Rate"), b"%d" % bucket.rate),
    ]
    return lambda left: [(remaining, b"%d" % left), *fixed]


def _resolver(args: Mapping[str, Any]) -> Callable[[Exchange], str | None]:
    given = str(args.get("key-resolver", args.get("keyResolver", "#{@principalNameKeyResolver}")))
    name = given.removeprefix("#{@").removesuffix("}")
    if name not in RESOLVERS:
        raise ValueError(f"key-resolver {given} is none of {', '.join(sorted(RESOLVERS))}")
    return RESOLVERS[name]
