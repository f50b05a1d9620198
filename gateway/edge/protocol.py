"""One client's connection: bytes become exchanges, replies become bytes, one after the other."""

import asyncio
import socket
from collections import deque
from math import inf
from typing import TYPE_CHECKING, cast

import httptools
import structlog

from cloud.errors import InvalidError
from gateway.exchange import REASONS, Exchange, Headers, Reply, Stream, TooSlowError, message
from gateway.handler.arrival import (
    Meaning,
    RefusedError,
    arrive,
    meaning,
    new_correlation_id,
)

if TYPE_CHECKING:
    from gateway.edge.worker import Edge

log = structlog.get_logger(__name__)

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES = {code: f"HTTP/1.1 {code} {text}\r\n".encode() for code, text in REASONS.items()}
_BODILESS = frozenset({204, 304})
_EVENTS = b"text/event-stream"
_SWITCHING = 101
_UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
_MOST_PIPELINED = 32
# What framing may cost beside the body itself: chunk extensions and trailers go nowhere.
_MOST_OVERHEAD = 16 * 1024
_PER_CHUNK = 32
_LARGE = 16 * 1024
_LINGER_S = 2.0
_FIRST_S = 1.0
# A body may be slow, but not for ever: this rate holds over the whole of it.
_LEAST_RATE = 16 * 1024

_FULL, _BUSY, _UNREAD = 1, 2, 4


class Connection(asyncio.Protocol):
    """A client: source of requests' bodies, sink of answers'."""

    __slots__ = (
        "_body",
        "_chunked",
        "_compat",
        "_current",
        "_edge",
        "_head_open",
        "_headers",
        "_holds",
        "_lingering",
        "_meaning",
        "_overhead",
        "_parser",
        "_peer",
        "_port",
        "_queue",
        "_raw",
        "_receiving",
        "_size",
        "_spare",
        "_started",
        "_status",
        "_stream",
        "_stuffed",
        "_task",
        "_transport",
        "_tunnel",
        "_unread",
        "_url",
        "closing",
        "deadline",
    )

    def __init__(self, edge: "Edge", *, compat: bool) -> None:
        self._edge = edge
        self._compat = compat
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._peer, self._port = "", 0
        self._queue: deque[Exchange] = deque()
        self._current: Exchange | None = None
        self._receiving: Exchange | None = None
        self._meaning: Meaning | None = None
        self._body: Stream | None = None
        self._stream: Stream | None = None
        self._tunnel: Stream | None = None
        self._task: asyncio.Task[None] | None = None
        self._headers: Headers = []
        self._url = self._raw = b""
        self._size = self._overhead = self._holds = self._status = self._unread = 0
        self._spare = 0
        self._head_open = self._chunked = self._lingering = self._stuffed = False
        self._started = 0.0
        self.closing = False
        self.deadline = inf

    # --- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        name = transport.get_extra_info("peername")
        self._peer = name[0].removeprefix("::ffff:") if isinstance(name, tuple) else "127.0.0.1"
        here = transport.get_extra_info("sockname")
        self._port = here[1] if isinstance(here, tuple) else 0
        self._edge.connections.add(self)
        self.deadline = self._edge.loop.time() + self._edge.settings.head_timeout_s
        if self._edge.draining:
            self.drain()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._edge.connections.discard(self)
        self._edge.endless.discard(self)
        self._parser = None
        self.deadline = inf
        current, self._current = self._current, None
        self._queue.clear()
        if self._body is not None:
            self._body.fail(InvalidError("client went away"))
        if self._task is not None:
            self._task.cancel()
        if self._tunnel is not None:
            self._tunnel.end()
        elif self._stream is not None:
            self._stream.cancel()
        if current is not None:
            self._note(current, 499 if self._tunnel is None else self._status)

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self._lingering:
            return
        if self._tunnel is not None:
            self._pass_on(data)
            return
        if self._head_open or self._receiving is not None or self._current is not None:
            self._read(data)
            return
        # A request begins here.
        settings = self._edge.settings
        known = self._edge.familiar.find(data, self._peer, settings)
        if known is not None:
            known.compat, known.port = self._compat, self._port
            self._begin(known)
            return
        self._meaning = None
        self._read(data)
        if self._meaning is not None and self._receiving is None:
            self._edge.familiar.keep(data, self._peer, settings, self._meaning)

    def _read(self, data: bytes) -> None:
        if self._head_open:
            self._raw += data
        else:
            self._raw, self._spare = data, 0
        if self._chunked_body():
            self._overhead += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if not isinstance(cause, RefusedError):
                log.error("parser_callback_failed", exc_info=cause)  # noqa: TRY400 - the cause, not this
                cause = RefusedError(400, "Request is malformed")
            self._refuse(cause)
        except httptools.HttpParserError:
            self._refuse(RefusedError(400, "Request is malformed"))
        else:
            if self._head_open and len(self._raw) - self._spare > self._edge.settings.max_head:
                self._refuse(RefusedError(431, "Request head is too large"))
            elif self._overhead > _MOST_OVERHEAD:
                self._refuse(RefusedError(400, "Request is malformed"))

    def _feed(self, data: bytes) -> None:
        parser = cast("httptools.HttpRequestParser", self._parser)
        while True:
            try:
                parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                # A WebSocket's first bytes; no other protocol is spoken here, and then what
                # follows is the next request.
                data = data[upgrade.args[0] :]
                if data and self._tunnel is not None:
                    self._pass_on(data)
                elif data and self._parser is not None:
                    continue
            return

    def _pass_on(self, data: bytes) -> None:
        self.deadline = self._edge.loop.time() + self._edge.settings.websocket_idle_s
        if self._tunnel is not None:
            self._tunnel.feed(data)

    def _chunked_body(self) -> bool:
        return self._receiving is not None and self._body is not None and self._body.length is None

    # --- the request, as the parser finds it

    def on_message_begin(self) -> None:
        self._head_open = True
        self._url, self._headers, self._size, self._overhead = b"", [], 0, 0
        if self._current is None:
            self.deadline = self._edge.loop.time() + self._edge.settings.head_timeout_s

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_open:  # else a trailer, which may set nothing
            self._size += len(name) + len(value) + 4
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._head_open = False
        parser = cast("httptools.HttpRequestParser", self._parser)
        if self._size + len(self._url) > self._edge.settings.max_head:
            raise RefusedError(431, "Request head is too large")
        version = parser.get_http_version()
        # llhttp also takes HTTP/0.9, and RTSP and ICE in the protocol's place.
        if version not in {"1.0", "1.1"} or self._url + b" HTTP/1." not in self._raw:
            raise RefusedError(400, "Request line is malformed")
        settings = self._edge.settings
        exchange = arrive(
            parser.get_method(),
            self._url,
            version,
            self._headers,
            peer=self._peer,
            scheme=self._edge.scheme,
            trusted=settings.trusted_proxies,
            pattern=settings.trusted_pattern,
            unsaid=settings.unsaid,
            appends=settings.appends,
        )
        exchange.compat, exchange.port = self._compat, self._port
        exchange.keep_alive = parser.should_keep_alive()
        self._receive(exchange)
        if self._current is None:
            upgrades = parser.should_upgrade()
            if upgrades and settings.websocket and exchange.body is None:
                self._offer_tunnel(exchange)
            plain = exchange.body is None and exchange.keep_alive and version == "1.1"
            if plain and not (upgrades or exchange.expects):
                self._meaning = meaning(exchange)
            self._begin(exchange)
        elif len(self._queue) < _MOST_PIPELINED:
            self._queue.append(exchange)
            self._hold(_BUSY)
        else:
            raise RefusedError(400, "Too many requests at once")

    def _receive(self, exchange: Exchange) -> None:
        length, chunked = None, False
        for name, value in self._headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                chunked = True
        self._receiving, self._body = exchange, None
        if chunked or length:
            exchange.body = self._body = Stream(self, length)
            if exchange.expects:
                self._body.wanted = self._welcome

    def _offer_tunnel(self, exchange: Exchange) -> None:
        """Let a WebSocket's opening handshake through (RFC 6455 section 4.1)."""
        asked = [value.lower() for name, value in self._headers if name == b"upgrade"]
        if asked == [b"websocket"] and exchange.method == "GET" and exchange.version == "1.1":
            exchange.tunnel = self._tunnel = Stream(self)

    def on_chunk_header(self) -> None:
        self._overhead -= _PER_CHUNK

    def on_body(self, data: bytes) -> None:
        body = self._body
        if body is not None:
            if body.length is None:
                self._overhead = max(0, self._overhead - len(data))
            body.feed(data)

    def on_message_complete(self) -> None:
        body, exchange, self._receiving, self._body = self._body, self._receiving, None, None
        # A head that begins in the same piece is not charged for what stands before it.
        self._spare = len(self._raw)
        if exchange is self._current:
            self.deadline = inf
        if body is not None:
            body.end()
            # Its last bytes may have found the upstream's buffer full; nobody else would tell.
            self._release(_FULL)

    def _welcome(self) -> None:
        if self._receiving is self._current and not self._transport.is_closing():
            self._transport.write(_CONTINUE)

    # --- flow of the request's body

    def pause_reading(self) -> None:
        self._hold(_FULL)

    def resume_reading(self) -> None:
        self._release(_FULL)

    def abandon(self) -> None:
        self._release(_FULL)  # read on, and drop it

    def _hold(self, reason: int) -> None:
        if not self._holds and not self._transport.is_closing():
            self._transport.pause_reading()
        self._holds |= reason
        if reason == _FULL and self._tunnel is None:
            self.deadline = inf  # the upstream is slow, not the client

    def _release(self, reason: int) -> None:
        if not self._holds & reason:
            return
        self._holds &= ~reason
        if not self._holds and not self._transport.is_closing():
            self._transport.resume_reading()
        if reason == _FULL and self._receiving is self._current and self._receiving is not None:
            self.deadline = self._edge.loop.time() + self._edge.settings.stall_timeout_s

    # --- the answer

    def _begin(self, exchange: Exchange) -> None:
        self._current = exchange
        self._started = self._edge.loop.time()
        incoming = self._receiving is exchange and exchange.body is not None
        self.deadline = self._started + self._edge.settings.stall_timeout_s if incoming else inf
        exchange.correlation_id = new_correlation_id()
        self._task = self._edge.loop.create_task(self._serve(exchange))

    async def _serve(self, exchange: Exchange) -> None:
        try:
            reply = await self._edge.handle(exchange)
        except Exception:
            log.exception("request_failed", path=exchange.raw_path)
            reply = message(500, "Internal server error")
        self._task = None
        if self._current is exchange:
            self._answer(exchange, reply)
        else:
            reply.discard()

    def _answer(self, exchange: Exchange, reply: Reply) -> None:
        body = reply.body
        if isinstance(body, Stream) and body.failure is not None:
            reply = message(502, "Upstream broke off its answer")
            body = reply.body
        whole = body if isinstance(body, bytes) else body.taken()
        if exchange.tunnel is not None:
            if reply.status == _SWITCHING and isinstance(body, Stream):
                self._switch(exchange, reply, body)
                return
            # A plain answer after all; what the client sends may be frames already.
            exchange.tunnel.cancel()
            self._tunnel = self._parser = None
            self.closing, self.deadline = True, inf
        bodiless = exchange.method == "HEAD" or reply.status in _BODILESS
        framing = self._framing(exchange, reply, whole, bodiless=bodiless)
        keeps = (
            exchange.keep_alive and not self.closing and self._receiving is not exchange
            and framing is not None
        )  # fmt: skip
        parts = [_STATUS_LINES.get(reply.status) or b"HTTP/1.1 %d \r\n" % reply.status]
        parts += [b"%b: %b\r\n" % held for held in reply.headers]
        parts.append(b"X-Correlation-Id: %b\r\n" % exchange.correlation_id.encode())
        parts.append(framing or b"")
        if not keeps:
            self.closing = True
            parts.append(b"Connection: close\r\n")
        elif exchange.version == "1.0":
            parts.append(b"Connection: keep-alive\r\n")
        parts.append(b"\r\n")
        self._status = reply.status
        if bodiless or whole is not None:
            if bodiless or not whole:
                self._transport.write(b"".join(parts))
            elif len(whole) > _LARGE:
                self._transport.writelines((b"".join(parts), whole))  # without a copy of it
            else:
                self._transport.write(b"".join((*parts, whole)))
            reply.discard()
            self._done()
            return
        self._transport.write(b"".join(parts))
        if any(n.lower() == b"content-type" and v.startswith(_EVENTS) for n, v in reply.headers):
            self._edge.endless.add(self)
        self._pump(cast("Stream", body))

    def _switch(self, exchange: Exchange, reply: Reply, stream: Stream) -> None:
        """Both sides speak another protocol from here on; its bytes are not looked into."""
        parts = [_STATUS_LINES[_SWITCHING], _UPGRADE]
        parts += [b"%b: %b\r\n" % held for held in reply.headers]
        parts.append(b"X-Correlation-Id: %b\r\n\r\n" % exchange.correlation_id.encode())
        self._transport.write(b"".join(parts))
        self._status, self._chunked, self.closing = _SWITCHING, False, True
        self.deadline = self._edge.loop.time() + self._edge.settings.websocket_idle_s
        self._edge.endless.add(self)
        self._pump(stream)

    def _pump(self, stream: Stream) -> None:
        self._stream = stream
        stream.attach(self)
        if self._stuffed:
            self.pause_writing()  # by an answer before it; nobody would say so again

    def _framing(
        self, exchange: Exchange, reply: Reply, whole: bytes | None, *, bodiless: bool
    ) -> bytes | None:
        """Say where the body ends; None when only the connection's end can tell."""
        self._chunked = False
        if bodiless:
            length = reply.length if reply.length is not None else len(whole or b"") or None
            known = length is not None and reply.status != 204  # noqa: PLR2004 - has none
            return b"Content-Length: %d\r\n" % length if known and length is not None else b""
        if whole is not None:
            return b"Content-Length: %d\r\n" % len(whole)
        length = reply.body.length if isinstance(reply.body, Stream) else None
        if length is not None:
            return b"Content-Length: %d\r\n" % length
        if exchange.version == "1.0":
            return None
        self._chunked = True
        return b"Transfer-Encoding: chunked\r\n"

    def send(self, data: bytes) -> None:
        if self._tunnel is not None:
            self.deadline = self._edge.loop.time() + self._edge.settings.websocket_idle_s
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def finish(self) -> None:
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")
        self._stream = None
        self._done()

    def abort(self, error: Exception) -> None:
        """End the answer half-way, so that the client cannot take it for whole."""
        log.warning("answer_broken_off", reason=str(error))
        self._stream = None
        current, self._current = self._current, None
        if current is not None:
            self._note(current, self._status)
        self._transport.abort()

    def pause_writing(self) -> None:
        self._stuffed = True
        # Only while an answer passes: after it another deadline holds, and must go on holding.
        if self._stream is not None:
            self.deadline = self._edge.loop.time() + self._edge.settings.stall_timeout_s
            self._stream.pause()
        elif self._current is None and not self.closing:
            self._hold(_UNREAD)

    def resume_writing(self) -> None:
        self._stuffed = False
        self._release(_UNREAD)
        if self._current is None and self._queue and self._parser is not None:
            self._follow()
        elif self._stream is not None:
            self.deadline = inf
            if self._tunnel is not None:
                self.deadline = self._edge.loop.time() + self._edge.settings.websocket_idle_s
            self._stream.resume()

    def _done(self) -> None:
        """The answer is complete: on to the next request, if there may be one."""
        current, self._current = self._current, None
        self._edge.endless.discard(self)
        if current is not None:
            self._note(current, self._status)
        if self.closing or self._transport.is_closing():
            self._close()
        elif self._queue and not self._stuffed:
            self._follow()
        else:
            if self._stuffed:
                self._hold(_UNREAD)  # who asks on without reading would fill our memory
            settings = self._edge.settings
            self.deadline = self._edge.loop.time() + (
                settings.head_timeout_s if self._head_open else settings.idle_timeout_s
            )

    def _follow(self) -> None:
        """Begin the request that came behind the one that is answered."""
        following = self._queue.popleft()
        if not self._queue:
            self._release(_BUSY)
        self._begin(following)

    def _note(self, exchange: Exchange, status: int) -> None:
        exchange.body = None  # a small one is still held, and lines wait to be written
        self._edge.observed.note(exchange, status, self._edge.loop.time() - self._started)

    # --- endings

    def _refuse(self, error: RefusedError) -> None:
        """Give one answer to what is no request, and close; never a second one."""
        self._parser, self._head_open = None, False
        self.closing = True
        receiving, body, self._receiving, self._body = self._receiving, self._body, None, None
        self._queue.clear()
        if self._current is not None:
            # The answer to the request before it is still due; after that the connection closes.
            if receiving is self._current and body is not None:
                self._receiving = receiving
                body.fail(InvalidError(str(error)))
            return
        exchange = Exchange("-", "-", "-", peer=self._peer, client=self._peer, keep_alive=False)
        exchange.correlation_id = new_correlation_id()
        self._current, self._started = exchange, self._edge.loop.time()
        self._receiving = exchange
        self._answer(exchange, message(error.status, str(error), *error.headers))

    def _close(self) -> None:
        """Close; bytes on their way must not turn our answer into a reset."""
        if self._transport.is_closing():
            return
        unread = self._receiving is not None
        self._parser, self._head_open = None, False
        if not unread:
            # It closes once the client has read the rest, which may be never.
            self.deadline = self._edge.loop.time() + self._edge.settings.stall_timeout_s
            self._transport.close()
            return
        self._lingering = True
        self._holds = 0
        self.deadline = self._edge.loop.time() + _LINGER_S
        self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()  # TLS knows no half-closed connection

    def expire(self) -> None:
        """A deadline has passed: which one follows from what we wait for."""
        self.deadline = inf
        if self._lingering:
            # Over TLS the end has to be said yet.
            told = self._transport.can_write_eof() or self._transport.is_closing()
            self._transport.abort() if told else self._transport.close()
        elif self._current is None and not self._head_open:
            unread = self._transport.get_write_buffer_size()
            if unread and unread != self._unread:
                # Slow, but reading: the rest of an answer has as long as any piece of one.
                self._unread = unread
                self.deadline = self._edge.loop.time() + self._edge.settings.stall_timeout_s
                return
            self._transport.abort() if unread else self._transport.close()
        elif self._head_open and self._current is None:
            self._refuse(RefusedError(408, "Request head did not arrive in time"))
        elif self._stream is not None:
            self._stream.cancel()
            self.abort(TimeoutError("client does not read"))
        elif self._body is not None and self._receiving is self._current:
            if not self._slow_but_moving(self._body):
                self._body.fail(TooSlowError("Request body did not arrive in time"))
        else:
            self._transport.abort()

    def _slow_but_moving(self, body: Stream) -> bool:
        """Give a body the time that its size so far pays for."""
        until = self._started + self._edge.settings.stall_timeout_s + body.passed / _LEAST_RATE
        self.deadline = until
        return until > self._edge.loop.time()

    def drain(self) -> None:
        """The worker stops: close after the next answer, which says so, or when none is asked for.

        A request may be under way on a connection that looks idle, also on one that has not asked
        yet. To close under it would fail it, and not every client asks again.
        """
        self.closing = True
        if self._current is None and not self._lingering and not self._head_open:
            self.deadline = min(self.deadline, self._edge.loop.time() + _FIRST_S)

    def end_events(self) -> None:
        """End an endless answer in good order; its reader connects again, elsewhere."""
        if self._stream is not None and not self._transport.is_closing():
            self._stream.cancel()
            self.finish()


def tune(sock: socket.socket) -> None:
    """Small answers leave at once, and a peer that vanished is noticed."""
    sock.setblocking(False)  # noqa: FBT003 - its only parameter
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
