"""Answers that stay open: Server-Sent Events (WHATWG HTML, section 9.2), and how they end.

An open stream holds no thread. The thread that answered hands its socket to the process's one
writer, which beats when nobody else speaks and closes what is over (docs/adr/0043).
"""

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import structlog
from flask import Response, request

log = structlog.get_logger()

# Set when the worker was told to end (`cloud.server`): an open stream must not hold up the drain.
stopping: Final = threading.Event()

_TICK_S: Final = 0.25
# What a socket says that cannot go on at once, plain or with TLS.
_LATER: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_LAST_CHUNK: Final = b"0\r\n\r\n"
# Of what a client missed this much waits for it; then it comes back for the rest.
_MOST_MISSED: Final = 1024 * 1024
# Set by a server that leaves a socket alone once its answer raised `HandedOver`.
_lets_go = threading.Event()


class HandedOver(OSError):  # noqa: N818 - no failure: what the answer's iterator tells the server
    """The connection is not the server's any more. An OSError: those pass gunicorn untouched."""


class OpenStream:
    """The sending end of one answer that stays open; every method may be called from any thread.

    Args:
        heartbeat: seconds of silence before a comment goes out. A client that takes nothing for
            twice as long is dropped.
        until: when it ends, as `time.monotonic()` tells it.
        limit: chunks that may wait for a slow client, beside those it missed, before it is dropped.
            Of those it missed only so many wait as fit into a megabyte.
        closed: called once, when the stream is over.
    """

    __slots__ = (
        "_blocked", "_chunked", "_closed", "_heartbeat", "_limit", "_lock", "_missed", "_poll",
        "_size", "_socket", "_spoke", "_until", "_waiting", "ended", "full",
    )  # fmt: skip

    def __init__(
        self, *, heartbeat: float, until: float, limit: int, closed: Callable[[], None]
    ) -> None:
        self.ended = self.full = False
        self._heartbeat = heartbeat
        self._until = until
        self._limit = limit
        self._closed = closed
        self._lock = threading.Lock()
        self._waiting: list[bytes] = []
        self._missed = self._size = 0  # of what waits: chunks from before the client came, bytes
        self._socket: socket.socket | None = None
        self._poll: select.epoll | None = None
        self._chunked = self._blocked = False
        self._spoke = 0.0

    def send(self, chunk: bytes, *, missed: bool = False) -> None:
        """Send at once, or as soon as the client takes it; nothing once the stream has ended.

        Args:
            chunk: one or more whole SSE fields with a blank line.
            missed: from before the client came, and before anything else is sent. It is not slow
                because it missed much: what is `missed` waits beside the `limit` of others. Once
                too much of it waits the stream is `full`: it takes nothing more, and ends when the
                client has got what waits.
        """
        with self._lock:
            if self.ended or self.full:
                return
            self._missed += missed
            self._waiting.append(_framed(chunk) if self._chunked else chunk)
            self._size += len(self._waiting[-1])
            if self._poll is not None and not self._blocked:
                self._flush()
            if len(self._waiting) - self._missed > self._limit:
                self.ended = True
            self.full = missed and self._size > _MOST_MISSED

    def end(self) -> None:
        """Let it end; the writer closes it within a moment."""
        self.ended = True

    def abandon(self) -> None:
        """Give up a stream that never got as far as the writer."""
        if self._socket is None:
            self._over()

    def attach(self, own: socket.socket, poll: select.epoll, *, chunked: bool) -> None:
        """Send over `own` from here on, with HTTP/1.1's framing (RFC 9112, 7.1) or bare."""
        own.settimeout(0)
        with self._lock:
            self._socket, self._poll, self._chunked = own, poll, chunked
            self._spoke = time.monotonic()
            poll.register(own.fileno(), select.EPOLLIN)
            if chunked:
                self._waiting = [_framed(chunk) for chunk in self._waiting]
                self._size = sum(map(len, self._waiting))
            self._flush()

    def on_ready(self, events: int) -> None:
        """Deal with what the socket has to say."""
        with self._lock:
            if events & ~select.EPOLLOUT:
                self._listen()
            if events & select.EPOLLOUT and not self.ended:
                self._flush()

    def tick(self, now: float) -> bool:
        """Beat when it was silent for long; False when the stream is over, and closed."""
        if not self.ended:
            self._look_after(now)
        if not self.ended and not stopping.is_set():
            return True
        self._over()
        return False

    def _look_after(self, now: float) -> None:
        silent = now - self._spoke
        if silent >= self._heartbeat and not self._blocked:
            self.send(comment("heartbeat"))
        if now >= self._until or (self._blocked and silent >= 2 * self._heartbeat):
            self.ended = True
        if self.full and not self._blocked:
            self.ended = True

    def _flush(self) -> None:
        if self._socket is None or self._poll is None:
            return
        try:
            self._send_waiting(self._socket)
            if self._blocked != bool(self._waiting):
                self._blocked = not self._blocked
                wanted = select.EPOLLIN | (select.EPOLLOUT if self._blocked else 0)
                self._poll.modify(self._socket.fileno(), wanted)
        except (OSError, ValueError):
            # A ValueError stands for a socket that somebody else has closed.
            self.ended = True

    def _send_waiting(self, own: socket.socket) -> None:
        with suppress(*_LATER):
            while self._waiting:
                sent = own.send(self._waiting[0])
                self._spoke = time.monotonic()
                self._size -= sent
                if sent < len(self._waiting[0]):
                    self._waiting[0] = self._waiting[0][sent:]
                else:
                    del self._waiting[0]
                    self._missed = max(0, self._missed - 1)

    def _listen(self) -> None:
        """Notice a client that is gone; a word from one that should only listen is left unread."""
        try:
            if self._socket is not None and not self._socket.recv(4096):
                self.ended = True
        except _LATER:
            pass
        except OSError:
            self.ended = True

    def _over(self) -> None:
        with self._lock:
            self.ended = True
            own, self._poll = self._socket, None
            closed, self._closed = self._closed, _nothing
            if own is not None:
                # Closing also takes it out of the poll. Half a chunk must not look like a whole.
                with suppress(OSError, ValueError):
                    if self._chunked and not self._waiting:
                        own.send(_LAST_CHUNK)
                    own.shutdown(socket.SHUT_RDWR)
                own.close()
        closed()


class _Writer:
    """Serves every open stream of the process; its thread is there while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: dict[int, OpenStream] = {}
        self._poll: select.epoll | None = None

    def adopt(self, own: socket.socket, stream: OpenStream, *, chunked: bool) -> None:
        number = own.fileno()
        with self._lock:
            poll, begin = self._poll, self._poll is None
            if poll is None:
                poll = self._poll = select.epoll()
            self._streams[number] = stream
            with _faults_of(stream):
                stream.attach(own, poll, chunked=chunked)
        if begin:
            # Not a daemon: the process ends once the streams have ended.
            threading.Thread(target=self._run, args=(poll,), name="streams").start()

    def _run(self, poll: select.epoll) -> None:
        look_around = time.monotonic() + _TICK_S
        while True:
            for number, events in poll.poll(max(0.0, look_around - time.monotonic())):
                if stream := self._streams.get(number):
                    with _faults_of(stream):
                        stream.on_ready(events)
            now = time.monotonic()
            if now < look_around:
                continue
            look_around = now + _TICK_S
            for number, stream in list(self._streams.items()):
                # Under the lock: a number that becomes free may be a new stream's at once.
                with self._lock:
                    over = False
                    with _faults_of(stream):
                        over = not stream.tick(now)
                    if over and self._streams.get(number) is stream:
                        del self._streams[number]
            with self._lock:
                if not self._streams:
                    self._poll = None
                    poll.close()
                    return


@contextmanager
def _faults_of(stream: OpenStream) -> Iterator[None]:
    """Let a stream's fault end that stream, at the next look around: the writer serves others."""
    try:
        yield
    except Exception:
        log.exception("stream_failed")
        stream.end()


adopt: Final = _Writer().adopt


def let_go() -> None:
    """Note that this process's server leaves a socket alone once an answer raised `HandedOver`."""
    _lets_go.set()


def event_stream(opening: Iterable[bytes], stream: OpenStream) -> Response:
    """Answer with `opening`, then with all that is sent into `stream`.

    The first chunk goes out with the head, by the server's own means. From there on the writer
    sends, so that a client that reads slowly, or not at all, holds no thread.
    """
    environ = request.environ
    headers = {"X-Accel-Buffering": "no"}  # nginx and its like pass each chunk on at once
    if request.method == "HEAD":
        stream.abandon()
        return Response((), headers=headers, mimetype="text/event-stream")

    def chunks() -> Iterator[bytes]:
        missed = iter(opening)
        yield next(missed)
        if _lets_go.is_set():
            chunked = environ["SERVER_PROTOCOL"] == "HTTP/1.1"
            adopt(environ["gunicorn.socket"], stream, chunked=chunked)
            _send_all(missed, stream)
            raise HandedOver
        # Another server keeps its socket, and spends a thread on passing on what the writer says.
        here, there = socket.socketpair()
        adopt(there, stream, chunked=False)
        with here:
            _send_all(missed, stream)
            while data := here.recv(65536):
                yield data

    answer = Response(chunks(), headers=headers, mimetype="text/event-stream")
    answer.call_on_close(stream.abandon)
    return answer


def _send_all(missed: Iterable[bytes], stream: OpenStream) -> None:
    for chunk in missed:
        stream.send(chunk, missed=True)
        if stream.full or stream.ended:
            return


def sse(event: str, data: bytes, event_id: str) -> bytes:
    """Spell one event; `data` is one line."""
    return b"event: %b\nid: %b\ndata: %b\n\n" % (event.encode(), event_id.encode(), data)


def comment(text: str) -> bytes:
    """Spell a line that a client ignores: it keeps the connection alive, and tells when it died."""
    return b": %b\n\n" % text.encode()


def _framed(chunk: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(chunk), chunk)


def _nothing() -> None:
    pass
