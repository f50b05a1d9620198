"""A front before a server: HTTP is passed on, but for what a test has it refuse.

It does for a proxy, too: a request line may hold a whole address, and CONNECT makes a tunnel.
"""

import http.client
import select
import socket
import ssl
from collections.abc import Callable

from tests.serving import Handler, Serving

Refuse = Callable[[Handler], int | None]


class Tunnels(Handler):
    """Answers CONNECT, as a proxy does."""

    heard: list[tuple[str, dict[str, str]]]

    def do_CONNECT(self) -> None:  # noqa: N802 - the library's name
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


class Front(Serving):
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

        class Fronted(Tunnels):
            protocol_version = "HTTP/1.1"
            heard = self.requests

            def reply(self) -> None:
                front.requests.append((f"{self.command} {self.path}", dict(self.headers)))
                body = self.body()
                status = front.refuse(self)
                if status is not None:
                    self.answer(status)
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

        super().__init__(Fronted, guard=guard)
        self.url += "/eureka/"
