"""The Flask application behind the edge: run in a few threads, for what no route takes."""

import asyncio
import io
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote_to_bytes

import structlog

from gateway.exchange import Exchange, Reply, message

log = structlog.get_logger(__name__)

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Local:
    """Calls a WSGI application (PEP 3333) without tying up the loop."""

    def __init__(self, application: Wsgi, threads: int = 4) -> None:
        self._application = application
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="flask")

    async def handle(self, exchange: Exchange) -> Reply:
        return await self.forward(exchange, exchange.raw_path)

    async def forward(self, exchange: Exchange, path: str) -> Reply:
        """Answer as the local path does, whatever the method."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._call, _environ(exchange, path))

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
        self._pool.shutdown(wait=False, cancel_futures=True)


def _environ(exchange: Exchange, path: str) -> dict[str, Any]:
    host, _, port = exchange.host.partition(":")
    environ = {
        "REQUEST_METHOD": exchange.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": exchange.query or "",
        "SERVER_NAME": host or "localhost",
        "SERVER_PORT": port or "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        # The caller behind trusted proxies, which is who network rules are about.
        "REMOTE_ADDR": exchange.client,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": exchange.scheme,
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in exchange.headers:
        if not name.startswith((b"x-forwarded-", b"forwarded")):
            key = f"HTTP_{name.decode('latin-1').upper().replace('-', '_')}"
            environ[key] = value.decode("latin-1")
    if exchange.host:
        environ["HTTP_HOST"] = exchange.host
    return environ
