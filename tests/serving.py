"""HTTP servers that stand for others: a port and threads of their own, until they are closed."""

import ssl
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from werkzeug.serving import BaseWSGIServer, make_server

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


class Handler(BaseHTTPRequestHandler):
    """Reads and answers whole bodies, and logs nothing.

    Whatever is asked comes to `reply`.
    """

    def reply(self) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        self.reply()

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - the library's names

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def answer(
        self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that broke off is no news.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Serving:
    """What serves a handler or an application, by TLS with a `guard`."""

    def __init__(
        self,
        what: "type[BaseHTTPRequestHandler] | WSGIApplication",
        port: int = 0,
        guard: ssl.SSLContext | None = None,
    ) -> None:
        self.http: ThreadingHTTPServer | BaseWSGIServer = (
            _Server(("127.0.0.1", port), what)
            if isinstance(what, type)
            else make_server("127.0.0.1", port, what, threaded=True)
        )
        self.port: int = self.http.server_port
        self.url = f"{'https' if guard else 'http'}://127.0.0.1:{self.port}"
        if guard:
            # The handshake belongs to the thread of its own connection, for one that fails.
            self.http.socket = guard.wrap_socket(
                self.http.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self.http.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        """Stop listening: from then on a call is refused."""
        self.http.shutdown()
        self._thread.join()
        self.http.server_close()
