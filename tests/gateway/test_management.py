"""The gateway's management endpoints on a port of their own."""

import socket

from tests.gateway.conftest import Gateway, settings
from tests.ports import free_port


class Managed(Gateway):
    """Two ports; `at` says which one is spoken to."""

    def __init__(self, changes: dict[str, object]) -> None:
        self.managed = self.at = free_port()
        own = {"management.server.port": self.managed}
        super().__init__(changes | own, "-b", f"127.0.0.1:{self.managed}", workers=1)

    def open(self, source: str = "127.0.0.1", port: int = 0) -> socket.socket:
        return super().open(source, port or self.at)


def test_a_port_of_their_own_has_the_endpoints_and_no_route(upstream, store):
    simple = "spring.cloud.discovery.client.simple.instances.movie-service[0].uri"
    door = Managed({**settings(store), simple: f"http://127.0.0.1:{upstream.port}"})
    try:
        found = {path: door.ask(path).status for path in ("/actuator", "/search/x", "/docs")}
        assert found == {"/actuator": 200, "/search/x": 404, "/docs": 404}
        door.at = door.port
        found = {path: door.ask(path).status for path in ("/actuator/health", "/search/x")}
        assert found == {"/actuator/health": 404, "/search/x": 200}
        # A header says nothing of where a request came in.
        host = f"127.0.0.1:{door.managed}"
        raw = door.say(
            f"GET /actuator HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        assert raw.startswith(b"HTTP/1.1 404 ")
    finally:
        door.stop()
