"""One connection to Redis for the whole worker: commands of concurrent requests go out together.

The library's own client takes a connection and a round trip per command; here the commands of one
turn of the loop are written in one go, and answers come back in order (RESP pipelining).
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import hiredis
import structlog

from cloud.errors import UnavailableError
from gateway.exchange import Script
from gateway.settings import RedisSettings

log = structlog.get_logger(__name__)

_AWAY = "Redis is away"
_MOST_WAITING = 10_000
_PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0)

Word = bytes | str | int
_Asked = tuple[float, asyncio.Future[Any], Sequence[Word], str]
"""Since when, who waits, and what for."""


class _Connection(asyncio.Protocol):
    """One connection's life; everything that waits fails with it."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._reader = hiredis.Reader(notEnoughData=self)
        self._waiting: deque[_Asked] = deque()
        self._turn: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.lost: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def send(self, words: Sequence[Word], text: str = "") -> asyncio.Future[Any]:
        """Send a command; `text` is its script's, in case that the server does not know that."""
        future = self._loop.create_future()
        if self.transport.is_closing() or len(self._waiting) >= _MOST_WAITING:
            future.set_exception(UnavailableError(_AWAY))
            return future
        self._post(words, text, future)
        return future

    def _post(self, words: Sequence[Word], text: str, future: asyncio.Future[Any]) -> None:
        if not self._turn:
            self._loop.call_soon(self._flush)
        pack: Any = hiredis.pack_command  # its stub knows tuples of one word only
        self._turn.append(pack(tuple(words)))
        self._waiting.append((self._loop.time(), future, words, text))

    def _flush(self) -> None:
        self.transport.write(b"".join(self._turn))
        self._turn.clear()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets()) is not self:
                _, future, words, text = self._waiting.popleft()
                if future.done():
                    continue
                if not isinstance(answer, hiredis.ReplyError):
                    future.set_result(answer)
                elif text and str(answer).startswith("NOSCRIPT"):
                    self._post(("EVAL", text, *words[2:]), "", future)
                else:
                    self._report(str(answer))
                    future.set_exception(UnavailableError(_AWAY))
        except (hiredis.ProtocolError, IndexError):
            self.transport.abort()

    def overdue(self, before: float) -> bool:
        return bool(self._waiting) and self._waiting[0][0] < before

    def connection_lost(self, _exc: Exception | None) -> None:
        for _, future, _, _ in self._waiting:
            if not future.done():
                future.set_exception(UnavailableError(_AWAY))
        self._waiting.clear()
        if not self.lost.done():
            self.lost.set_result(None)


class Redis:
    """Runs scripts; while Redis is away every call fails at once, and that is logged once.

    Attributes:
        run_id: names the present life of the server.
        connected: set while Redis is there.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self._live: _Connection | None = None
        self._away = False
        self.run_id = ""
        self.connected = asyncio.Event()

    def run(
        self, script: Script, keys: Sequence[bytes | str], args: Sequence[Word]
    ) -> asyncio.Future[Any]:
        """Run a script; its answer fails, too, when Redis refuses or takes too long.

        Raises:
            UnavailableError: Redis is away.
        """
        if self._live is None:
            raise UnavailableError(_AWAY)
        return self._live.send(("EVALSHA", script.digest, len(keys), *keys, *args), script.text)

    def follow(self, settings: RedisSettings) -> None:
        """Go to another server when the configuration says so."""
        if settings != self._settings:
            self._settings = settings
            if self._live is not None:
                self._live.transport.abort()

    def sweep(self, now: float) -> None:
        """Give up a connection whose oldest command waits too long."""
        if self._live is not None and self._live.overdue(now - self._settings.timeout_s):
            self._live.transport.abort()

    async def stay_connected(self) -> None:
        """Connect, and connect again, until cancelled."""
        attempt = 0
        while True:
            try:
                async with asyncio.timeout(2):
                    live = await self._connect()
            except (OSError, TimeoutError, UnavailableError, hiredis.HiredisError) as error:
                self._report(str(error) or type(error).__name__)
                await asyncio.sleep(_PAUSES_S[min(attempt, len(_PAUSES_S) - 1)])
                attempt += 1
                continue
            attempt = 0
            if self._away:
                self._away = False
                log.info("redis_back")
            self._live = live
            self.connected.set()
            try:
                await live.lost
            finally:
                self._live = None
                self.connected.clear()
                live.transport.abort()
            self._report("connection lost")

    async def _connect(self) -> _Connection:
        settings = self._settings
        context = ssl.create_default_context() if settings.tls else None
        loop = asyncio.get_running_loop()
        _, live = await loop.create_connection(
            partial(_Connection, self._report), settings.host, settings.port, ssl=context
        )
        try:
            if settings.password:
                user = (settings.username,) if settings.username else ()
                await live.send(("AUTH", *user, settings.password))
            if settings.database:
                await live.send(("SELECT", settings.database))
            # A server that restarted, or another one, has another id: see the guard.
            info = (await live.send(("INFO", "server"))).decode()
            self.run_id = next(
                line[7:].strip() for line in info.splitlines() if line.startswith("run_id:")
            )
        except BaseException:
            live.transport.abort()
            raise
        return live

    def _report(self, reason: str) -> None:
        if not self._away:
            self._away = True
            log.warning("redis_away", reason=reason, effect="limits and revocation are local")
