"""MetadataCache: answers that are the same for everybody of a role, kept in Redis for all gateways.

RFC 9111 for what may be kept and how old it is, RFC 9110 section 13 for validators. Only answers
that name a lifetime are kept; what a service says nothing about, or gives to one caller alone
(`private`, `no-store`, a cookie), passes. Against section 3.5 of the former a plain `max-age` also
says so of an answer to a request with a token: a service behind this filter says `private` where
it means one caller, and everybody else of the role is served the same (docs/adr/0100).
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson

from cloud.errors import DeadlineError, UnavailableError, UpstreamError
from gateway.body import read
from gateway.exchange import (
    CACHE_REQUESTS,
    Definition,
    Exchange,
    Filter,
    Handler,
    Headers,
    Reply,
    Script,
    Stream,
    Tools,
    cache_control,
    span_of,
)
from gateway.predicates import bind

INDEX = "nozie:gateway:cached"
GENERATION = "nozie:gateway:cached:generation"

# KEYS: entry, generation, lock. ARGV: milliseconds of the lock.
# Gives: entry or nil, generation, whether it is for the caller to fetch.
LOOK = Script(
    """
local held, generation = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2]) or '0'
if held then return {held, generation, 0} end
local first = redis.call('SET', KEYS[3], '1', 'NX', 'PX', ARGV[1])
return {false, generation, first and 1 or 0}
"""
)
# KEYS: entry, lock. Gives: entry or nil, whether somebody is still fetching it.
WAIT = Script("return {redis.call('GET', KEYS[1]), redis.call('EXISTS', KEYS[2])}")
# KEYS: entry, generation, lock, stale copy, index. ARGV: generation when the fetch began, value,
# seconds of entry and stale copy, most entries. What was fetched before a change is not kept. Of a
# full cache whoever goes is drawn: of many that somebody made up, most likely one of those.
KEEP = Script(
    """
redis.call('DEL', KEYS[3])
if (redis.call('GET', KEYS[2]) or '0') ~= ARGV[1] then return 0 end
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now)
local over = redis.call('ZCARD', KEYS[5]) - 2 * tonumber(ARGV[5]) + 2
for _, key in ipairs(over > 0 and redis.call('ZRANDMEMBER', KEYS[5], over) or {}) do
  redis.call('UNLINK', key)
  redis.call('ZREM', KEYS[5], key)
end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
redis.call('SET', KEYS[4], ARGV[2], 'EX', ARGV[4])
redis.call('ZADD', KEYS[5], now + ARGV[3], KEYS[1], now + ARGV[4], KEYS[4])
return 1
"""
)
# KEYS: generation, index. Answers that are being fetched right now are of the old generation.
DROP = Script(
    """
redis.call('INCR', KEYS[1])
local keys = redis.call('ZRANGE', KEYS[2], 0, -1)
for _, key in ipairs(keys) do redis.call('UNLINK', key) end
redis.call('DEL', KEYS[2])
return #keys
"""
)
RELEASE = Script("return redis.call('DEL', KEYS[1])")
STALE = Script("return redis.call('GET', KEYS[1])")

_LOCK_MS = 3000
_POLL_S = 0.02
_POLLS = 50
_PATIENCE_S = 1.0
_LARGEST = 64 * 1024
_MOST = 1000
_STALE_S = 600
_PERSONAL_S = 60.0
_REDIS_AWAY_S = 1.0
_MOST_PERSONAL = 4096
_OK, _FAILED = 200, 500
_NOT_KEPT = frozenset({"private", "no-store", "no-cache"})
_VARIES = frozenset({"accept", "accept-encoding", "origin"})
_HINT = b"x-sc-lb-hint"
_CONDITIONS = frozenset({b"if-none-match", b"if-modified-since"})
_TOLD_OF_US = (b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-prefix")
_TOLD_IN_304 = frozenset({b"cache-control", b"content-location", b"date", b"etag", b"expires",
                          b"last-modified", b"vary"})  # fmt: skip
_FAILURES = (UnavailableError, UpstreamError, DeadlineError)


@dataclass(frozen=True, slots=True)
class Entry:
    """An answer as it is kept.

    Attributes:
        at: when it was fetched, epoch seconds.
        result: hit, miss, or stale.
    """

    status: int
    headers: Headers
    body: bytes
    at: float
    result: str

    def dump(self) -> bytes:
        headers = [
            [name.decode("latin-1"), value.decode("latin-1")] for name, value in self.headers
        ]
        head = {"status": self.status, "headers": headers, "at": self.at}
        return orjson.dumps(head) + b"\n" + self.body

    @classmethod
    def load(cls, text: bytes, result: str) -> "Entry":
        """Read what `dump` wrote."""
        head, _, body = text.partition(b"\n")
        told: dict[str, Any] = orjson.loads(head)
        texts: list[tuple[str, str]] = told["headers"]
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in texts]
        return cls(told["status"], headers, body, told["at"], result)


def drop(client: Any) -> int:
    """Forget all answers, for all gateways; gives how many keys they were.

    Args:
        client: redis-py's, for who has no loop; raises what that raises.
    """
    return int(client.eval(DROP.text, 2, GENERATION, INDEX))


class _Cache:
    """One route's cache, as one worker sees it."""

    def __init__(self, tools: Tools, default_s: int, now: Callable[[], float] = time.time) -> None:
        self._script = tools.script
        self._default_s = default_s
        self._now = now
        self._flights: dict[str, asyncio.Task[Entry | Reply]] = {}
        self._passing: dict[str, float] = {}

    async def answer(self, exchange: Exchange, proceed: Handler) -> Reply:
        """Answer from the cache, or let one of those who ask at the same time fetch."""
        key = _key(exchange)
        if self._passing.get(key, 0.0) > self._now():
            return await self._pass(exchange, proceed)
        flight = self._flights.get(key)
        leads = flight is None
        if flight is None:
            # A task of its own: the first who asked may leave, the others still want it.
            flight = asyncio.create_task(self._find(key, exchange, proceed))
            self._flights[key] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        try:
            found = await self._patiently(flight, key, leads=leads)
        except asyncio.CancelledError:
            if leads:
                flight.add_done_callback(_drop)
            raise
        if isinstance(found, Entry):
            result = found.result if leads or found.result != "miss" else "hit"
            CACHE_REQUESTS.labels(exchange.route, result).inc()
            return _serve(exchange, found, result, self._now())
        return found if leads and found else await self._pass(exchange, proceed)

    async def _patiently(
        self, flight: "asyncio.Task[Entry | Reply]", key: str, *, leads: bool
    ) -> Entry | Reply | None:
        """Wait for the one fetch, but not as long as a service that hangs may take.

        Then an older copy will do. Without one, only who began the fetch has to wait on; the
        others get None, and ask for themselves.
        """
        done, _ = await asyncio.wait([flight], timeout=_PATIENCE_S)
        if not done:
            stale = await self._copy(key)
            if stale is not None and leads:
                flight.add_done_callback(_drop)
            if stale is not None or not leads:
                return stale
        return await asyncio.shield(flight)

    async def _pass(self, exchange: Exchange, proceed: Handler) -> Reply:
        CACHE_REQUESTS.labels(exchange.route, "pass").inc()
        return await proceed(exchange)

    async def _find(self, key: str, exchange: Exchange, proceed: Handler) -> Entry | Reply:
        entry, lock = f"nozie:gateway:cache:{key}", f"nozie:gateway:fetching:{key}"
        try:
            held, generation, first = await self._script(
                LOOK, (entry, GENERATION, lock), (_LOCK_MS,)
            )
            if held is None and not first:
                held = await self._await_other(entry, lock)
        except UnavailableError:
            self._let_pass(key, _REDIS_AWAY_S)
            return await self._pass(exchange, proceed)
        if held is not None:
            return Entry.load(held, "hit")
        return await self._fetch(key, generation, exchange, proceed)

    async def _await_other(self, entry: str, lock: str) -> bytes | None:
        """Wait for another worker, or gateway, that fetches the same."""
        for _ in range(_POLLS):
            await asyncio.sleep(_POLL_S)
            held, busy = await self._script(WAIT, (entry, lock), ())
            if held is not None or not busy:
                found: bytes | None = held
                return found
        return None

    async def _fetch(
        self, key: str, generation: bytes, exchange: Exchange, proceed: Handler
    ) -> Entry | Reply:
        conditions = [held for held in exchange.headers if held[0] in _CONDITIONS]
        # The cache wants the whole answer; who asked with a condition gets his 304 from us.
        exchange.headers = [held for held in exchange.headers if held[0] not in _CONDITIONS]
        failure: Exception | None = None
        try:
            reply = await proceed(exchange)
        except _FAILURES as error:
            failure = error
        finally:
            exchange.headers += conditions
        if failure is not None or reply.status >= _FAILED:
            stale = await self._stale(key)
            if stale is not None and failure is None:
                reply.discard()
            if stale is not None:
                return stale
            if failure is not None:
                raise failure
            return reply
        try:
            return await self._keep(key, generation, reply)
        except _FAILURES:
            # It broke off in the middle: as good as none.
            if (stale := await self._stale(key)) is not None:
                return stale
            raise

    async def _keep(self, key: str, generation: bytes, reply: Reply) -> Entry | Reply:
        lifetime_s, stale_s = _lifetimes(reply, self._default_s)
        body = await read(reply.body, _LARGEST) if lifetime_s else reply.body
        if not lifetime_s or isinstance(body, Stream):
            self._let_pass(key, _PERSONAL_S)
            await self._quietly(RELEASE, (f"nozie:gateway:fetching:{key}",))
            return Reply(reply.status, reply.headers, body, reply.length)
        headers = reply.headers
        if not any(name.lower() == b"etag" for name, _ in headers):
            headers = [*headers, (b"ETag", b'"%b"' % sha256(body).hexdigest()[:32].encode())]
        fresh = Entry(reply.status, headers, body, self._now(), "miss")
        keys = (f"nozie:gateway:cache:{key}", GENERATION, f"nozie:gateway:fetching:{key}",
                f"nozie:gateway:stale:{key}", INDEX)  # fmt: skip
        words = (generation, fresh.dump(), lifetime_s, lifetime_s + stale_s, _MOST)
        await self._quietly(KEEP, keys, words)
        return fresh

    async def _stale(self, key: str) -> Entry | None:
        await self._quietly(RELEASE, (f"nozie:gateway:fetching:{key}",))
        return await self._copy(key)

    async def _copy(self, key: str) -> Entry | None:
        held = await self._quietly(STALE, (f"nozie:gateway:stale:{key}",))
        return None if held is None else Entry.load(held, "stale")

    async def _quietly(
        self, script: Script, keys: tuple[str, ...], args: tuple[Any, ...] = ()
    ) -> Any:
        try:
            return await self._script(script, keys, args)
        except UnavailableError:
            return None

    def _let_pass(self, key: str, seconds: float) -> None:
        """Remember that nothing can be kept here, lest those who ask wait for each other."""
        if len(self._passing) >= _MOST_PERSONAL:
            self._passing.clear()
        self._passing[key] = self._now() + seconds


def metadata_cache(definition: Definition, tools: Tools) -> Filter:
    """Build the filter.

    `timeToLive` is for answers without Cache-Control; without it such answers are not kept. It
    stands before CircuitBreaker, so that what is kept also serves while the service is down.
    """
    (lifetime,) = bind(definition.args, "timeToLive", required=0)
    cache = _Cache(tools, round(span_of(lifetime).total_seconds()) if lifetime else 0)

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        if (
            exchange.method != "GET"
            or exchange.body is not None
            or exchange.header(b"range") is not None
            # Who picks an instance wants that one's answer.
            or exchange.header(_HINT) is not None
        ):
            return await proceed(exchange)
        return await cache.answer(exchange, proceed)

    return apply


def _key(exchange: Exchange) -> str:
    """Name an answer: all that it may depend on, the caller's roles instead of the caller.

    By which name the caller knows us is told to the service, which may write it into links.
    """
    roles = ",".join(sorted(exchange.principal.roles)) if exchange.principal else ""
    parts = (
        exchange.method,
        f"{exchange.scheme}://{exchange.host}",
        *((exchange.header(name) or b"").decode("latin-1") for name in _TOLD_OF_US),
        exchange.raw_path,
        # The order of names says nothing; that of one name's values may.
        "&".join(sorted((exchange.query or "").split("&"), key=lambda one: one.partition("=")[0])),
        (exchange.header(b"accept") or b"").decode("latin-1"),
        (exchange.header(b"accept-encoding") or b"").decode("latin-1"),
        roles,
    )
    digest = sha256("\n".join(parts).encode()).hexdigest()
    return f"{exchange.route}:{digest}"


def _lifetimes(reply: Reply, default_s: int) -> tuple[int, int]:
    """Say how many seconds an answer may be kept, and how many more while its service is down."""
    told: dict[bytes, bytes] = {}
    for name, value in reply.headers:
        lowered = name.lower()
        told[lowered] = told[lowered] + b"," + value if lowered in told else value
    varies = {word.strip() for word in told.get(b"vary", b"").decode("latin-1").lower().split(",")}
    if reply.status != _OK or b"set-cookie" in told or varies - _VARIES - {""}:
        return 0, 0
    if b"cache-control" not in told:
        return default_s, _STALE_S
    directives = cache_control(reply.headers)
    if _NOT_KEPT & directives.keys():
        return 0, 0
    age = directives.get("s-maxage", directives.get("max-age", ""))
    strict = {"must-revalidate", "proxy-revalidate"} & directives.keys()
    return int(age) if age.isdecimal() else 0, 0 if strict else _STALE_S


def _serve(exchange: Exchange, entry: Entry, result: str, now: float) -> Reply:
    told = [(b"X-Cache", result.upper().encode())]
    if result != "miss":
        told.append((b"Age", b"%d" % max(0, now - entry.at)))
    wanted = exchange.header(b"if-none-match")
    if wanted is not None and _matches(wanted, entry.headers):
        kept = [held for held in entry.headers if held[0].lower() in _TOLD_IN_304]
        return Reply(304, kept + told)
    return Reply(entry.status, entry.headers + told, entry.body)


def _matches(wanted: bytes, headers: Headers) -> bool:
    """Compare weakly, as RFC 9110 section 13.1.2 has it for If-None-Match."""
    tag = next((value for name, value in headers if name.lower() == b"etag"), b"")
    tags = [each.strip().removeprefix(b"W/") for each in wanted.split(b",")]
    return b"*" in tags or tag.removeprefix(b"W/") in tags


def _drop(flight: "asyncio.Task[Entry | Reply]") -> None:
    """Nobody is there any more to take the answer."""
    if not flight.cancelled() and flight.exception() is None:
        found = flight.result()
        if isinstance(found, Reply):
            found.discard()
