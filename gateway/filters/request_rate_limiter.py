"""RequestRateLimiter: a token bucket in Redis, shared with Spring's RedisRateLimiter."""

from collections.abc import Callable, Mapping
from typing import Any

from cloud.errors import UnavailableError
from gateway.exchange import (
    Definition,
    Exchange,
    Filter,
    Handler,
    Reply,
    Script,
    Tools,
    message,
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


def request_rate_limiter(definition: Definition, tools: Tools) -> Filter:
    """Build the filter from its long form; while Redis is away requests pass, as in Spring.

    Raises:
        ValueError: a rate or capacity that makes no bucket, or an unknown key resolver.
    """
    args = definition.args
    rate, capacity, wanted = _bucket(args)
    resolve = _resolver(args)
    status = status_of(str(args.get("statusCode", args.get("status-code", 429))))
    deny_empty = str(args.get("deny-empty-key", args.get("denyEmptyKey", "true"))) != "false"
    empty_status = status_of(
        str(args.get("empty-key-status-code", args.get("emptyKeyStatus", 403)))
    )

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        key = resolve(exchange)
        if not key:
            return (
                message(empty_status, "Access is denied") if deny_empty else await proceed(exchange)
            )
        bucket = f"request_rate_limiter.{{{exchange.route}.{key}}}"
        try:
            allowed, left = await tools.script(
                BUCKET, (f"{bucket}.tokens", f"{bucket}.timestamp"), (rate, capacity, wanted)
            )
        except UnavailableError:
            allowed, left = 1, -1
        told = [
            (b"X-RateLimit-Remaining", b"%d" % left),
            (b"X-RateLimit-Requested-Tokens", b"%d" % wanted),
            (b"X-RateLimit-Burst-Capacity", b"%d" % capacity),
            (b"X-RateLimit-Replenish-Rate", b"%d" % rate),
        ]
        if not allowed:
            wait = max(1, -(-(wanted - left) // rate))
            return message(status, "Too many requests", *told, (b"Retry-After", b"%d" % wait))
        reply = await proceed(exchange)
        reply.headers.extend(told)
        return reply

    return apply


def _bucket(args: Mapping[str, Any]) -> tuple[int, int, int]:
    nested = args.get("redis-rate-limiter") or {}

    def number(name: str, default: int) -> int:
        return int(args.get(f"redis-rate-limiter.{name}", nested.get(name, default)))

    rate, wanted = number("replenishRate", 0), number("requestedTokens", 1)
    capacity = number("burstCapacity", rate)
    if rate < 1 or capacity < rate or wanted < 0:
        raise ValueError("needs replenishRate >= 1 and burstCapacity >= replenishRate")
    return rate, capacity, wanted


def _resolver(args: Mapping[str, Any]) -> Callable[[Exchange], str | None]:
    given = str(args.get("key-resolver", args.get("keyResolver", "#{@principalNameKeyResolver}")))
    name = given.removeprefix("#{@").removesuffix("}")
    if name not in RESOLVERS:
        raise ValueError(f"key-resolver {given} is none of {', '.join(sorted(RESOLVERS))}")
    return RESOLVERS[name]
