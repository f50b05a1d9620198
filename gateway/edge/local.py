"""The Flask application behind the edge: run in a few threads, for what no route takes."""

import asyncio
import io
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote_to_bytes

import structlog

from gateway.exchange import Exchange, Reply, TooLargeError, message

log = structlog.get_logger(__name__)

_MOST = 256 * 1024
_FALLBACK = "/fallback/"

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Local:
    """Calls a WSGI application (PEP 3333) without tying up the loop.

    Args:
        application: answers what no route takes.
        actuator: where its management endpoints are.
        threads: how many requests it answers at a time.
    """

    def __init__(self, application: Wsgi, actuator: str = "/actuator", threads: int = 4) -> None:
        self._application = application
        # The rest of what is local reads no body, and need not wait for one.
        self._with_body = (f"{actuator}/", "/ops/")
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="flask")
        # A fallback asks nobody, and must not stand behind pages that wait for what is away.
        self._fallbacks = ThreadPoolExecutor(1, thread_name_prefix="fallback")

    async def handle(self, exchange: Exchange) -> Reply:
        return await self.forward(exchange, exchange.raw_path)

    async def forward(self, exchange: Exchange, path: str) -> Reply:
        """Answer as the local path does, whatever the method."""
        loop = asyncio.get_running_loop()
        body = await _body(exchange) if path.startswith(self._with_body) else b""
        pool = self._fallbacks if path.startswith(_FALLBACK) else self._pool
        return await loop.run_in_executor(pool, self._call, _environ(exchange, path, body))

    def _call(self, environ: dict[str, Any]) -> Reply:
        head: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], _: object = None) -> None:
            head[:] = [status, headers]

        try:
            body = self._application(environ, start_response)
            try:
                content = b"".join(body)
            finally:
                getattr(body, "close", lambda: None)()
        except Exception:
            log.exception("local_answer_failed", path=environ["PATH_INFO"])
            return message(500, "Internal server error")
        status, headers = head
        return Reply(
            int(status.split()[0]),
            [
                (name.encode("latin-1"), value.encode("latin-1"))
                for name, value in headers
                if name.lower() != "content-length"
            ],
            content,
        )

    def close(self) -> None:
        for pool in (self._pool, self._fallbacks):
            pool.shutdown(wait=False, cancel_futures=True)


class _Whole:
    """A sink that keeps it all: a small body for the application."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.body: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def send(self, data: bytes) -> None:
        self._parts.append(data)

    def finish(self) -> None:
        if not self.body.done():
            self.body.set_result(b"".join(self._parts))

    def abort(self, error: Exception) -> None:
        if not self.body.done():
            self.body.set_exception(error)


async def _body(exchange: Exchange) -> bytes:
    """Read a body of at most `_MOST` bytes.

    Raises:
        TooLargeError: it is longer.
    """
    if exchange.body is None:
        return b""
    exchange.body.limit = _MOST
    if (exchange.body.length or 0) > _MOST:
        raise TooLargeError("Request body is too large")
    whole = _Whole()
    exchange.body.attach(whole)
    return await whole.body


def _environ(exchange: Exchange, path: str, body: bytes) -> dict[str, Any]:
    host = exchange.host.partition(":")[0]
    environ = {
        "REQUEST_METHOD": exchange.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": exchange.query or "",
        "SERVER_NAME": host or "localhost",
        "SERVER_PORT": str(exchange.port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        # The caller behind trusted proxies, which is who network rules are about.
        "REMOTE_ADDR": exchange.client,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": exchange.scheme,
        "wsgi.input": io.BytesIO(body),
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        # Verified; no header can set what is no `HTTP_…`.
        "nozie.principal": exchange.principal,
    }
    for name, value in exchange.headers:
        if not name.startswith((b"x-forwarded-", b"forwarded")):
            key = f"HTTP_{name.decode('latin-1').upper().replace('-', '_')}"
            environ[key] = value.decode("latin-1")
    # CGI names this one without the prefix (RFC 3875 section 4.1.3).
    environ["CONTENT_TYPE"] = environ.pop("HTTP_CONTENT_TYPE", "")
    if exchange.host:
        environ["HTTP_HOST"] = exchange.host
    return environ
