"""Upstreams: kept connections to instances, one request at a time on each."""

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from math import inf
from typing import cast

import httptools
import structlog

from cloud.balancer import Balancer, Header
from cloud.errors import DeadlineError, UnavailableError, UpstreamError
from cloud.eureka import Instance
from cloud.retry import RetryBudget
from gateway.exchange import (
    HOP_BY_HOP,
    BusyError,
    Exchange,
    Headers,
    NoInstanceError,
    Reply,
    Stream,
)
from gateway.route import Route, Target
from gateway.settings import Settings

log = structlog.get_logger(__name__)

SAFE = frozenset({"GET", "HEAD"})
_BODILESS = frozenset({204, 304})
_SWITCHING = 101
_UPGRADE = b"connection: Upgrade\r\nupgrade: websocket\r\n"
# What a service says about CORS or correlation is ours to say.
_DROPPED = HOP_BY_HOP | {b"content-length", b"x-correlation-id"}
# What is meant for everybody behind us is no connection's own (RFC 9110 section 7.6.1).
_NEVER_HOP = frozenset(
    {
        b"cache-control",
        b"content-encoding",
        b"content-range",
        b"content-security-policy",
        b"content-type",
        b"strict-transport-security",
        b"vary",
        b"www-authenticate",
        b"x-content-type-options",
        b"x-frame-options",
    }
)
_USUAL = frozenset({b"keep-alive", b"close"})
_ENDLESS = (b"text/event-stream", b"application/x-ndjson", b"application/stream+json")


# What most answers are: a field a line, nothing folded, no blank at either end, US-ASCII only.
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ([!-~](?:[\t -~]*[!-~])?)\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([2-5]\d\d) [\t -~]*\r\n")
_PASSES, _DROPS, _MEASURES, _TELLS_TYPE, _TELLS_CONNECTION, _UNUSUAL = range(6)
_kinds: dict[bytes, int] = {}
_MOST_KINDS, _LONGEST_KIND = 1000, 64
_MOST_DIGITS = 18
# So many calls that wait for so long without an answer to anybody: an instance that hangs, where
# its callers would only know it by their time-outs.
_SEVERAL, _SILENCE_S = 2, 1.0


class LostError(UpstreamError):
    """The connection ended before a byte of the answer came."""


class Upstream(asyncio.Protocol):
    """One connection to one instance.

    It is the sink of the request's body and the source of the answer's.
    """

    __slots__ = (
        "_answer",
        "_body",
        "_chunked",
        "_deadline_s",
        "_endless",
        "_framed",
        "_headers",
        "_hops",
        "_keep",
        "_left",
        "_length",
        "_method",
        "_owed",
        "_parser",
        "_pool",
        "_sent",
        "_size",
        "_stream",
        "_switched",
        "_transport",
        "_tunnel",
        "_untouched",
        "born",
        "deadline",
        "idle_since",
        "used",
    )

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._parser = httptools.HttpResponseParser(self)
        self._length: int | None = None
        self._answer: asyncio.Future[Reply] | None = None
        self._stream: Stream | None = None
        self._body: Stream | None = None
        self._headers: Headers = []
        self._hops: list[bytes] = []
        self._size = self._left = self._owed = 0
        self._untouched = True
        self._tunnel: Stream | None = None
        self._switched = False
        self._sent = True
        self._keep = False
        self.born = pool.loop.time()
        self.deadline = inf
        self.idle_since = 0.0
        self.used = False

    # --- the request

    def ask(self, exchange: Exchange, host: bytes, timeout_s: float) -> "asyncio.Future[Reply]":
        """Send the request; the answer is there when its head is.

        It fails with LostError, UpstreamError or DeadlineError. Whoever no longer waits for it has
        to `give_up`.
        """
        body = exchange.body
        whole = None if body is None else body.taken()
        length = len(whole) if whole is not None else body.length if body is not None else None
        self._chunked = body is not None and length is None
        self._method, self._deadline_s, self._body = exchange.method, timeout_s, body
        self._headers, self._length, self._framed, self._endless = [], None, False, False
        self._size = 0
        self._untouched = True
        self._tunnel = exchange.tunnel
        self._answer = answer = self._pool.loop.create_future()
        self._sent = body is None or whole is not None
        # Until the body is through, only an upstream that does not read is late: a slow client
        # has a deadline of its own, and must not count against the upstream.
        self.deadline = self._pool.loop.time() + timeout_s if self._sent else inf
        self._transport.write(_head(exchange, host, length, chunked=self._chunked) + (whole or b""))
        if body is not None and whole is None:
            self._owed = length or 0
            body.attach(self)
        return answer

    @property
    def asked(self) -> float:
        """When the wait for an answer began; inf where none is waited for."""
        waits = self._answer is not None and not self._answer.done() and self._sent
        return self.deadline - self._deadline_s if waits else inf

    def send(self, data: bytes) -> None:
        self._owed -= len(data)
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def finish(self) -> None:
        if self._owed > 0:
            # It would take the next request for the rest of this body.
            self._fail(UpstreamError("request body is shorter than announced"))
            return
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")
        self._sent = True
        if self._switched:
            # With what the client said last: it may be a close frame.
            self._stream, self.deadline = None, self._pool.loop.time() + self._pool.stall_s
            self._transport.close()
        elif self._stream is None:
            self.deadline = self._pool.loop.time() + self._deadline_s

    def abort(self, error: Exception) -> None:
        self._fail(error)

    def pause_writing(self) -> None:
        if self._switched and self._body is not None:
            self._body.pause()
        elif self._body is not None and not self._sent:
            self.deadline = self._pool.loop.time() + self._deadline_s
            self._body.pause()

    def resume_writing(self) -> None:
        if self._switched and self._body is not None:
            self._body.resume()
        elif self._body is not None and not self._sent:
            if self._stream is None:
                self.deadline = inf
            self._body.resume()

    # --- the answer, when it is as simple as most are

    def _takes(self, data: bytes) -> bool:
        """Take an answer with a Content-Length and a plain head; what else there is llhttp reads.

        Its body then passes without being looked into.
        """
        self._untouched = False
        start, at = _STATUS_LINE.match(data), data.find(b"\r\n\r\n") + 4
        if start is None or at < start.end() or at > self._pool.settings.max_answer_head:
            return False
        found = _plain(data, start.end(), at - 2)
        status = int(start[1])
        if found is None or self._method == "HEAD" or status in _BODILESS:
            return False
        answer, (headers, length) = cast("asyncio.Future[Reply]", self._answer), found
        left = length - len(data) + at
        if left < 0 or answer.done():
            return False
        self._framed = self._keep = True
        if not left:
            self._rest()
            self._pool.answers += 1
            answer.set_result(Reply(status, headers, data[at:]))
            return True
        self._left = left
        self._stream = stream = Stream(self, length)
        self.deadline = self._pool.loop.time() + self._pool.stall_s
        if at < len(data):
            stream.feed(data[at:])
        self._pool.answers += 1
        answer.set_result(Reply(status, headers, stream))
        return True

    def _pass_on(self, data: bytes) -> None:
        """Let a piece of such a body through."""
        left = self._left = self._left - len(data)
        if left < 0:
            # More than was announced: the rest is nobody's, and nobody's answer may begin here.
            data, self._keep, self._left = data[:left], False, 0
        stream = cast("Stream", self._stream)
        if left <= 0:
            stream.feed(data)
            self._rest()
        else:
            self.deadline = self._pool.loop.time() + self._pool.stall_s
            stream.feed(data)

    # --- the answer, as the parser finds it

    def on_message_begin(self) -> None:
        if self._answer is None:
            raise UpstreamError("more came than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value)
        if self._size > self._pool.settings.max_answer_head:
            raise UpstreamError("head of the answer is too large")
        if self._answer is None or self._answer.done():
            return  # a trailer, which may set nothing
        lowered = name.lower()
        if lowered not in _DROPPED:
            if not lowered.startswith(b"access-control-"):
                self._headers.append((name, value))
            if lowered == b"content-type" and value.startswith(_ENDLESS):
                self._endless = True
        elif lowered == b"content-length":
            self._length, self._framed = int(value), True
        elif lowered == b"transfer-encoding":
            self._framed = True
        elif lowered == b"connection" and value.lower() not in _USUAL:
            self._hops += value.lower().split(b",")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._answer is None or self._answer.done():
            return
        if status < 200:  # noqa: PLR2004 - an interim answer; the final one follows
            if status == _SWITCHING and self._tunnel is not None:
                self._switch(self._tunnel)
            else:
                self._headers, self._hops = [], []
            return
        if self._hops:
            named = {name.strip() for name in self._hops} - _NEVER_HOP
            self._headers = [held for held in self._headers if held[0].lower() not in named]
            self._hops = []
        if self._method == "HEAD" or status in _BODILESS:
            self._framed = True
            self._keep = self._parser.should_keep_alive()
            self._pool.answers += 1
            self._answer.set_result(Reply(status, self._headers, length=self._length))
            if self._method == "HEAD":
                # The parser waits for a body that never comes.
                self._parser = httptools.HttpResponseParser(self)
                self._rest()
            return
        self._keep = self._framed and self._parser.should_keep_alive()
        self._stream = Stream(self, self._length)
        self.deadline = inf if self._endless else self._pool.loop.time() + self._pool.stall_s
        if self._endless:
            self._pool.streams.add(self)
        self._pool.answers += 1
        self._answer.set_result(Reply(status, self._headers, self._stream))

    def _switch(self, tunnel: Stream) -> None:
        """Speak HTTP no longer: bytes pass both ways until one side has enough."""
        answer = cast("asyncio.Future[Reply]", self._answer)
        self._switched = self._sent = self._endless = True
        self._chunked = self._keep = False
        self._pool.streams.add(self)
        self.deadline = inf
        self._stream, self._body = Stream(self), tunnel
        answer.set_result(Reply(_SWITCHING, self._headers, self._stream))
        tunnel.attach(self)

    def on_body(self, data: bytes) -> None:
        if self._stream is None:
            # A body where none may be.
            raise UpstreamError("more came than one answer")
        if not self._endless:
            self.deadline = self._pool.loop.time() + self._pool.stall_s
        self._stream.feed(data)

    def on_message_complete(self) -> None:
        if self._answer is not None and self._answer.done() and not self._switched:
            self._rest()

    def _rest(self) -> None:
        """The answer is complete: keep the connection for the next request, if it can be kept."""
        stream, self._stream, self._answer = self._stream, None, None
        self.deadline, self.used = inf, True
        if self._endless:
            self._pool.streams.discard(self)
        if stream is not None:
            stream.end()
        if self._keep and self._sent:
            self._body = None
            # The last bytes may have found the client's buffer full; the next answer is not theirs.
            self._transport.resume_reading()
            self._pool.keep(self)
        else:
            self.abandon()

    # --- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._pool.open.add(self)

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._pass_on(data)
        elif self._switched:
            if self._stream is not None:
                self._stream.feed(data)
        elif self._answer is None and self._stream is None:
            self.abandon()  # nobody asked
        elif not (self._untouched and self._takes(data)):
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._switched:
                self._fail(UpstreamError("upstream changed the protocol"))
            elif rest := data[upgrade.args[0] :]:
                cast("Stream", self._stream).feed(rest)
        except httptools.HttpParserError as error:
            self._fail(UpstreamError(f"upstream answered no HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.forget(self)
        if self._stream is not None and not self._framed and exc is None:
            self._stream.end()  # its end is the connection's
            if self._tunnel is not None:
                self._tunnel.cancel()
        else:
            self._fail(LostError("upstream closed the connection"))

    def _fail(self, error: Exception) -> None:
        answer, stream, self._answer, self._stream = self._answer, self._stream, None, None
        self.deadline = inf
        self.abandon()
        if answer is not None and not answer.done():
            answer.set_exception(error)
        elif stream is not None:
            stream.fail(error)

    def expire(self) -> None:
        """Time is up: no answer, or an answer that stalled."""
        self._fail(DeadlineError("No answer in time"))

    def pause_reading(self) -> None:
        if not self._transport.is_closing():
            self.deadline = inf  # the client is slow, not the upstream
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._transport.is_closing():
            self.deadline = inf if self._endless else self._pool.loop.time() + self._pool.stall_s
            self._transport.resume_reading()

    def give_up(self, answer: "asyncio.Future[Reply]") -> None:
        """Wait for an answer no longer; one that came a moment ago has left this to others."""
        if self._answer is answer:
            self.abandon()

    def abandon(self) -> None:
        """Close without a word; what is in flight is lost."""
        self._pool.forget(self)
        self._transport.abort()
        if self._body is not None and not self._sent:
            self._body.cancel()

    @property
    def alive(self) -> bool:
        return not self._transport.is_closing()


def _plain(data: bytes, at: int, end: int) -> tuple[Headers, int] | None:
    """Read header fields; None when they are unusual, or do not say how long the body is."""
    headers: Headers = []
    length = -1
    for held in _FIELD.findall(data, at, end):
        name, value = held
        at += len(name) + len(value) + 4
        kind = _kinds.get(name)
        if kind is None:
            kind = _kind_of(name)
        if kind == _PASSES:
            headers.append(held)
        elif kind == _MEASURES:
            if length >= 0 or not value.isdigit() or len(value) > _MOST_DIGITS:
                return None
            length = int(value)
        elif kind == _TELLS_TYPE and not value.startswith(_ENDLESS):
            headers.append(held)
        elif kind != _DROPS and (kind != _TELLS_CONNECTION or value.lower() != b"keep-alive"):
            return None
    return (headers, length) if at == end and length >= 0 else None


def _kind_of(name: bytes) -> int:
    """Decide what becomes of a header of an answer; the usual names are decided once."""
    lowered = name.lower()
    kind = {
        b"content-length": _MEASURES,
        b"content-type": _TELLS_TYPE,
        b"connection": _TELLS_CONNECTION,
        b"transfer-encoding": _UNUSUAL,
        b"upgrade": _UNUSUAL,
    }.get(lowered)
    if kind is None:
        drops = lowered in _DROPPED or lowered.startswith(b"access-control-")
        kind = _DROPS if drops else _PASSES
    if len(_kinds) < _MOST_KINDS and len(name) < _LONGEST_KIND:
        _kinds[name] = kind
    return kind


def _header(exchange: Exchange) -> Header:
    """Let the balancer ask for a hint, a cookie or a version, where instances differ by these."""

    def header(name: str) -> str | None:
        if name == ":path":
            return f"{exchange.raw_path}?{exchange.query or ''}"
        found = exchange.header(name.encode())
        return found.decode("latin-1") if found is not None else None

    return header


def _head(exchange: Exchange, host: bytes, length: int | None, *, chunked: bool) -> bytes:
    target = (
        exchange.raw_path if exchange.query is None else f"{exchange.raw_path}?{exchange.query}"
    )
    parts = [b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (exchange.method.encode(), target.encode(), host)]
    parts += [b"%b: %b\r\n" % held for held in exchange.headers]
    if exchange.tunnel is not None:
        parts.append(_UPGRADE)
    if chunked:
        parts.append(b"transfer-encoding: chunked\r\n")
    elif length is not None:
        parts.append(b"content-length: %d\r\n" % length)
    parts.append(b"\r\n")
    return b"".join(parts)


@lru_cache(1)
def _trusting() -> ssl.SSLContext:
    """Trust the system's authorities."""
    return ssl.create_default_context()


class Pool:
    """Connections to one address.

    Attributes:
        instance: whose address it is.
        answers: how many have come so far.
    """

    def __init__(self, instance: Instance, settings: Settings) -> None:
        self.host, self.port, self.tls = instance.host, instance.port, instance.secure
        self.instance = instance
        self.answers = self._counted = 0
        self._answered = -inf
        self.settings = settings
        self.authority = (
            f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}".encode()
        )
        self.loop = asyncio.get_running_loop()
        self.stall_s = settings.stall_timeout_s
        self.open: set[Upstream] = set()
        self.streams: set[Upstream] = set()
        self.opening = 0
        self._limit = settings.pool_size
        self._idle_s = settings.pool_idle_s
        self._life_s = settings.pool_life_s
        self._patience_s = settings.acquire_timeout_s
        self._context = (settings.tls.context or _trusting()) if self.tls else None
        self._idle: deque[Upstream] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self, timeout_s: float, *, fresh: bool = False) -> Upstream:
        """Take the connection used last, or open one.

        Raises:
            UnavailableError: the address refuses, or does not answer in time.
            BusyError: all connections that there may be are in use.
        """
        if not fresh and (held := self.rested()) is not None:
            return held
        if self._full:
            return await self._wait(timeout_s)
        self.opening += 1
        name = self.host if self.tls else None
        try:
            async with asyncio.timeout(timeout_s):
                _, upstream = await self.loop.create_connection(
                    lambda: Upstream(self),
                    self.host,
                    self.port,
                    ssl=self._context,
                    server_hostname=name,
                )
        except (OSError, TimeoutError) as error:
            raise UnavailableError(f"cannot connect: {error or 'timed out'}") from error
        finally:
            self.opening -= 1
        return upstream

    def rested(self) -> Upstream | None:
        """Take the connection used last; None when all are busy."""
        while self._idle:
            held = self._idle.pop()
            if held.alive:
                return held
        return None

    @property
    def _full(self) -> bool:
        # A stream that stays open for hours would keep a place from all others.
        return len(self.open) - len(self.streams) + self.opening >= self._limit

    async def _wait(self, timeout_s: float) -> Upstream:
        """Wait for a connection, or for room for one, as long as `pool.acquire-timeout` says."""
        turn = self.loop.create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._patience_s):
                await turn
        except TimeoutError:
            raise BusyError("Too many requests wait for this service") from None
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)
        return await self.acquire(timeout_s)

    def _call_next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def keep(self, upstream: Upstream) -> None:
        upstream.idle_since = self.loop.time()
        if upstream.idle_since - upstream.born > self._life_s:
            upstream.abandon()
            return
        self._idle.append(upstream)
        if self._waiting:
            self._call_next()

    def forget(self, upstream: Upstream) -> None:
        self.open.discard(upstream)
        self.streams.discard(upstream)
        if self._waiting:
            self._call_next()

    def is_silent(self, now: float) -> bool:
        """Tell whether several calls wait, and no answer has come since they began.

        One call may be slow. Asked at each look around.
        """
        if self.answers != self._counted:
            self._counted, self._answered = self.answers, now
        # Those alone that began after it was noticed: the last answer may be older than that.
        waiting = sum(self._answered < each.asked < now - _SILENCE_S for each in self.open)
        return waiting >= _SEVERAL

    def sweep(self, now: float) -> None:
        """End what is overdue, and connections that rested too long."""
        for upstream in [u for u in self.open if u.deadline < now]:
            upstream.expire()
        while self._idle and (
            self._idle[0].idle_since + self._idle_s < now or not self._idle[0].alive
        ):
            self._idle.popleft().abandon()

    def close(self) -> None:
        for upstream in list(self.open):
            upstream.abandon()


class Proxy:
    """Calls one instance of a route's target; a safe request gets a second try elsewhere."""

    def __init__(
        self, settings: Callable[[], Settings], balancer: Balancer, budget: RetryBudget
    ) -> None:
        self._settings = settings
        self._balancer = balancer
        self._budget = budget
        self._pools: dict[tuple[str, int, bool], Pool] = {}
        self._retired: list[Pool] = []

    async def call(self, exchange: Exchange, route: Route) -> Reply:
        """Pass the request on; return as soon as the head of the answer is here.

        Raises:
            UnavailableError: no instance, or none that can be reached.
            BusyError: our own pool is full, which says nothing about the instance.
            UpstreamError: the answer is no HTTP, or the connection broke.
            DeadlineError: no answer in time.
        """
        self._budget.called()
        tried: list[Instance] = []
        instance = self._choose(exchange, route.target, tried)
        while True:
            try:
                name = route.target.name
                with self._balancer.calling(name, instance, exchange.method) as calling:
                    reply = await self._attempt(exchange, route, instance)
                    calling.status = reply.status
            except (UnavailableError, LostError) as error:
                if not isinstance(error, BusyError):
                    refused = isinstance(error, UnavailableError)
                    self._balancer.failed(instance, refused=refused)
                tried.append(instance)
                following = self._following(exchange, route.target, tried)
                if following is None:
                    raise
                log.info(
                    "retrying", route=route.id, instance=instance.instance_id, reason=str(error)
                )
                instance = following
            except (UpstreamError, DeadlineError):
                self._balancer.failed(instance)
                raise
            else:
                self._balancer.succeeded(instance)
                return reply

    def _following(
        self, exchange: Exchange, target: Target, tried: list[Instance]
    ) -> Instance | None:
        """Find another instance for a second try, if there may be one."""
        if exchange.method not in SAFE or exchange.body is not None or len(tried) > 1:
            return None
        try:
            other = self._choose(exchange, target, tried)
        except UnavailableError:
            return None
        return other if other not in tried and self._budget.permits() else None

    def _choose(self, exchange: Exchange, target: Target, tried: list[Instance]) -> Instance:
        if target.scheme == "lb":
            try:
                return self._balancer.choose(target.name, tried, _header(exchange))
            except UnavailableError as error:
                status = 404 if self._settings().absent_is_404 else 503
                raise NoInstanceError(str(error), status) from error
        return Instance(
            f"{target.name}:{target.port}",
            target.name,
            (),
            target.name,
            target.port,
            target.scheme == "https",
        )

    async def _attempt(self, exchange: Exchange, route: Route, instance: Instance) -> Reply:
        settings = self._settings()
        pool = self._pool(instance, settings)
        connect_s = route.connect_timeout or settings.connect_timeout_s
        answer_s = route.response_timeout or settings.answer_timeout_s
        host = exchange.preserve_host or pool.authority
        upstream = pool.rested() or await pool.acquire(connect_s)
        answer = upstream.ask(exchange, host, answer_s)
        try:
            return await answer
        except LostError:
            # A kept connection may have been closed while it rested: that says nothing about
            # the instance, and a safe request may go there again (RFC 9110 section 9.2.2).
            if not upstream.used or exchange.method not in SAFE or exchange.body is not None:
                raise
        except BaseException:
            upstream.give_up(answer)
            raise
        upstream = await pool.acquire(connect_s, fresh=True)
        answer = upstream.ask(exchange, host, answer_s)
        try:
            return await answer
        except BaseException:
            upstream.give_up(answer)
            raise

    def _pool(self, instance: Instance, settings: Settings) -> Pool:
        address = (instance.host, instance.port, instance.secure)
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = Pool(instance, settings)
        elif pool.settings is not settings:
            # Another configuration, or the same one read anew.
            if pool.settings == settings:
                pool.settings = settings
            else:
                self._retired.append(pool)
                pool = self._pools[address] = Pool(instance, settings)
        pool.instance = instance
        return pool

    def sweep(self, now: float) -> None:
        """Enforce all deadlines; the edge calls it several times a second."""
        for pool in self._pools.values():
            if pool.is_silent(now):
                self._balancer.doubt(pool.instance)
        for pool in (*self._pools.values(), *self._retired):
            pool.sweep(now)
        self._retired = [pool for pool in self._retired if pool.open or pool.opening]
        for address in [a for a, pool in self._pools.items() if not (pool.open or pool.opening)]:
            del self._pools[address]

    def close(self) -> None:
        for pool in (*self._pools.values(), *self._retired):
            pool.close()
