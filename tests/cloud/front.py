"""A front before a server: HTTP is passed on, but for what a test has it refuse.

It does for a proxy, too: a request line may hold a whole address, and CONNECT makes a tunnel.
"""

import http.client
import select
import socket
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Refuse = Callable[[BaseHTTPRequestHandler], int | None]


class Tunnels(BaseHTTPRequestHandler):
    """Answers CONNECT, as a proxy does."""

    heard: list[tuple[str, dict[str, str]]]

    def do_CONNECT(self) -> None:
        self.heard.append((f"CONNECT {self.path}", dict(self.headers)))
        self.close_connection = True
        host, port = self.path.split(":")
        near = self.connection
        with socket.create_connection((host, int(port)), timeout=10) as far:
            self.send_response(200)
            self.end_headers()
            while True:
                for source in select.select([near, far], [], [])[0]:
                    piece = source.recv(65536)
                    if not piece:
                        return
                    (far if source is near else near).sendall(piece)


class Front:
    """Speaks HTTP, or HTTPS with a `guard`, before a real server.

    Args:
        address: of the server behind, `host:port`.
        refuse: gives the status to answer instead of passing a request on.
        guard: the context of its TLS.

    Attributes:
        requests: request lines, with the headers that came along.
    """

    def __init__(
        self,
        address: str,
        refuse: Refuse = lambda _: None,
        guard: ssl.SSLContext | None = None,
    ) -> None:
        front = self
        self.refuse = refuse
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.encodings: list[str | None] = []

        class Handler(Tunnels):
            protocol_version = "HTTP/1.1"
            heard = self.requests

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:
                    self.close_connection = True

            def pass_on(self) -> None:
                front.requests.append((f"{self.command} {self.path}", dict(self.headers)))
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status = front.refuse(self)
                if status is not None:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                behind = http.client.HTTPConnection(address, timeout=10)
                behind.request(self.command, self.path, body, dict(self.headers))
                answer = behind.getresponse()
                content = answer.read()
                behind.close()
                front.encodings.append(answer.getheader("Content-Encoding"))
                self.send_response(answer.status)
                for name in ("Content-Type", "Content-Encoding"):
                    if answer.getheader(name):
                        self.send_header(name, answer.getheader(name, ""))
                if answer.status != http.HTTPStatus.NO_CONTENT:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = pass_on  # noqa: N815 - the library's names

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        quiet: Any = self._server
        quiet.handle_error = lambda *_: None  # a client that broke off is no news
        self.port = self._server.server_port
        scheme = "https" if guard else "http"
        if guard:
            self._server.socket = guard.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.url = f"{scheme}://127.0.0.1:{self.port}/eureka/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
