"""LocalResponseCache: answers kept in the worker's own memory, each for who asks the same again.

Names, lifetimes and what a client is told are those of Spring Cloud Gateway's filter; in what may
be kept RFC 9111 goes first (docs/adr/0079).
"""

import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from cloud.errors import ConfigurationError
from gateway.body import copied
from gateway.exchange import (
    CACHE_REQUESTS,
    LOCAL_CACHE,
    Definition,
    Exchange,
    Filter,
    Handler,
    Headers,
    Reply,
    Stream,
    Tools,
    cache_control,
    size_of,
    span_of,
)
from gateway.predicates import bind

_OPTIONS = "filter.local-response-cache"
_TIME_TO_LIVE = "5m"
# Spring's has no bound unless it is given one; a worker's memory has.
_SIZE = "16MB"
_LARGEST = 1024 * 1024
_OVERHEAD = 256
_STATUSES = frozenset({200, 206, 301})
_UNASKED = frozenset({"private", "no-store"})
_NOT_KEPT = _UNASKED | {"no-cache"}
_UNTOLD = frozenset({b"cache-control", b"pragma", b"expires"})
_ENDLESS = (b"text/event-stream", b"application/x-ndjson", b"application/stream+json")
_STRATEGIES = {"updatecacheentry": True, "skipupdatecacheentry": False}
_MAX_AGE = re.compile(rb"\bmax-age=\d+\b")


@dataclass(frozen=True, slots=True)
class Item:
    """What lies in a cache: an answer, or the headers by which the answers to a request vary.

    Attributes:
        size: bytes, about.
        at_s: when it came, by a clock that only goes forward.
    """

    what: "Reply | tuple[bytes, ...]"
    size: int
    at_s: float


class Cache:
    """Items by digest, never more than so many bytes: what was wanted longest ago goes first."""

    def __init__(self, most: int, life_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.size = 0
        self._most = most
        self.life_s = life_s
        self._items: OrderedDict[bytes, Item] = OrderedDict()

    @property
    def largest(self) -> int:
        """Bytes of the longest body that is kept."""
        return min(_LARGEST, self._most)

    def find(self, key: bytes) -> Item | None:
        item = self._items.get(key)
        if item is None:
            return None
        if self.left_s(item) <= 0:
            self._drop(key)
            return None
        self._items.move_to_end(key)
        return item

    def keep(self, key: bytes, what: "Reply | tuple[bytes, ...]", size: int) -> None:
        self._drop(key)
        item = Item(what, size + _OVERHEAD, self.now())
        self._items[key] = item
        self.size += item.size
        while self.size > self._most:
            self._drop(next(iter(self._items)))

    def left_s(self, item: Item) -> float:
        """Tell how long an item still holds."""
        return self.life_s - (self.now() - item.at_s)

    def _drop(self, key: bytes) -> None:
        item = self._items.pop(key, None)
        if item is not None:
            self.size -= item.size


@dataclass(frozen=True, slots=True)
class _Request:
    """A request as it came, whatever filters make of it: what its answer is found by."""

    base: bytes
    headers: Headers

    @classmethod
    def of(cls, exchange: Exchange) -> "_Request":
        caller = exchange.principal
        cookies = sorted(
            pair.strip()
            for name, value in exchange.headers
            if name == b"cookie"
            for pair in value.split(b";")
        )
        query = "" if exchange.query is None else f"?{exchange.query}"
        parts = (
            # Routes for one address may differ in whom they serve, and with what.
            exchange.route.encode(),
            f"{exchange.scheme}://{exchange.host}{exchange.raw_path}{query}".encode(),
            # A token that was revoked is no caller any more, on a public path.
            f"{caller.user_id} {sorted(caller.roles)}".encode() if caller else b"",
            exchange.authorization or b"",
            exchange.header(b"range") or b"",
            *cookies,
        )
        return cls(sha256(b"\n".join(parts)).digest(), list(exchange.headers))

    def key(self, names: tuple[bytes, ...]) -> bytes:
        values = (b"%b: %b" % held for held in sorted(self.headers) if held[0] in names)
        return sha256(b"\n".join((self.base, *names, *values))).digest()


def local_response_cache(definition: Definition, tools: Tools) -> Filter:
    """Build the filter; `timeToLive` and `size` of its own, else those of the options.

    `size` is the instance's: its workers share it, and answers for one request may meet another
    worker. With `request.no-cache-strategy` `update-cache-entry` what a client wanted anew
    (`Cache-Control: no-cache`) is also kept anew.

    Raises:
        ValueError: a time or size that is none, or an unknown strategy.
    """

    def option(name: str, default: str) -> str:
        return tools.option(f"{_OPTIONS}.{name}") or default

    life, size = bind(definition.args, "timeToLive", "size", required=0)
    life_s = span_of(life or option("time-to-live", _TIME_TO_LIVE)).total_seconds()
    most = size_of(size or option("size", _SIZE)) // tools.share
    if life_s <= 0 or most <= 0:
        raise ValueError("timeToLive and size must be more than nothing")
    strategy = option("request.no-cache-strategy", "skip-update-cache-entry")
    renews = _STRATEGIES.get(re.sub("[-_]", "", strategy.lower()))
    if renews is None:
        raise ValueError(f"no-cache-strategy {strategy} is unknown")
    cache = Cache(most, life_s)

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        asked = cache_control(exchange.headers)
        plain = exchange.method == "GET" and exchange.body is None and exchange.tunnel is None
        if not plain or _UNASKED & asked.keys():
            return await proceed(exchange)
        request, anew = _Request.of(exchange), "no-cache" in asked
        if not anew and (found := _look_up(cache, request)) is not None:
            CACHE_REQUESTS.labels(exchange.route, "hit").inc()
            return found
        reply = await proceed(exchange)
        kept = _is_kept(reply, cache.largest) and (renews or not anew)
        CACHE_REQUESTS.labels(exchange.route, "miss" if kept else "pass").inc()
        return _keep(cache, request, reply) if kept else reply

    return apply


def everywhere(tools: Tools) -> Filter | None:
    """Build the one cache of all routes without their own, when the estate wants it.

    Raises:
        ConfigurationError: an option that it cannot be built by.
    """
    on = (tools.option(f"{_OPTIONS}.enabled") or "false").lower() == "true"
    off = (tools.option("global-filter.local-response-cache.enabled") or "true").lower() == "false"
    if off or not on:
        return None
    try:
        return local_response_cache(Definition(LOCAL_CACHE, {}), tools)
    except ValueError as fault:
        raise ConfigurationError(f"{_OPTIONS}: {fault}") from None


def _look_up(cache: Cache, request: _Request) -> Reply | None:
    varied = cache.find(request.base)
    names = varied.what if varied is not None else None
    item = cache.find(request.key(names)) if isinstance(names, tuple) else None
    kept = item.what if item is not None else None
    return _told(kept, cache.left_s(item)) if item and isinstance(kept, Reply) else None


def _is_kept(reply: Reply, largest: int) -> bool:
    told = {name.lower() for name, _ in reply.headers}
    kind = next((v.lower() for n, v in reply.headers if n.lower() == b"content-type"), b"")
    # Whose cookie it is, the next who asks is not.
    if reply.status not in _STATUSES or b"set-cookie" in told or kind.startswith(_ENDLESS):
        return False
    if _NOT_KEPT & cache_control(reply.headers).keys() or b"*" in _vary(reply.headers):
        return False
    length = len(reply.body) if isinstance(reply.body, bytes) else reply.body.length or 0
    return length <= largest


def _keep(cache: Cache, request: _Request, reply: Reply) -> Reply:
    """Pass the answer on as it comes; once it was here whole, it is kept."""
    names, headers = _vary(reply.headers), list(reply.headers)

    def arrived(body: bytes) -> None:
        size = len(body) + sum(len(name) + len(value) + _OVERHEAD // 2 for name, value in headers)
        cache.keep(request.base, names, sum(map(len, names)))
        cache.keep(request.key(names), Reply(reply.status, headers, body), size)

    fresh = Reply(reply.status, headers, reply.body)
    if isinstance(reply.body, Stream):
        fresh.body = copied(reply.body, cache.largest, arrived)
    else:
        arrived(reply.body)
    return _told(fresh, cache.life_s)


def _told(kept: Reply, left: float) -> Reply:
    """Tell how many seconds the answer may be used, whatever its service said."""
    left_s = max(0, int(left))
    headers = [held for held in kept.headers if held[0].lower() not in _UNTOLD]
    words = [
        word.strip()
        for name, value in kept.headers
        if name.lower() == b"cache-control"
        for word in value.split(b",")
    ]
    words = [_MAX_AGE.sub(b"max-age=%d" % left_s, word) for word in words]
    if not any(map(_MAX_AGE.search, words)):
        words.append(b"max-age=%d" % left_s)
    words = [word for word in words if word.lower() != b"must-revalidate"]
    words += [] if left_s else [b"no-cache", b"must-revalidate"]
    headers.append((b"Cache-Control", b",".join(words)))
    return Reply(kept.status, headers, kept.body)


def _vary(headers: Headers) -> tuple[bytes, ...]:
    words = (v.lower().split(b",") for n, v in headers if n.lower() == b"vary")
    return tuple(sorted({word.strip() for some in words for word in some}))
