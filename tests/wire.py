"""A wire between a client and a real server that a test can cut or freeze."""

import selectors
import socket
import threading
import time
from typing import Self


class Wire:
    """Listens on a port of its own and passes bytes on to `host:port`, unless told otherwise.

    Attributes:
        connections: how many there have been.
        requests: first lines of HTTP requests that passed, without the protocol.
        times: when they did, in monotonic seconds.
        sent: bytes that clients have sent.
    """

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._lock = threading.Lock()
        self._cut = self._frozen = self._closed = False
        self.connections = self.sent = 0
        self._clients: set[socket.socket] = set()
        self.requests: list[str] = []
        self.times: list[float] = []
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._thread.join()
        self._drop_all()
        self._selector.close()
        self._listener.close()

    def cut(self) -> None:
        """Break every connection, and each new one at once."""
        self._cut = True
        with self._lock:
            self._drop_all()

    def freeze(self) -> None:
        """Keep connections but pass nothing on, as a stopped process does."""
        self._frozen = True

    def mend(self) -> None:
        self._cut = self._frozen = False

    def _serve(self) -> None:
        while not self._closed:
            ready = self._selector.select(0.05)
            with self._lock:
                for key, _ in ready:
                    self._pass_on(key.fileobj)
            if self._frozen:
                threading.Event().wait(0.02)

    def _pass_on(self, source) -> None:
        if source is self._listener:
            self._accept()
        elif source in self._pairs and not self._frozen:
            try:
                data = source.recv(65536)
                if b" HTTP/1.1\r\n" in data:
                    self.times.append(time.monotonic())
                    self.requests.append(data.split(b" HTTP/1.1", 1)[0].decode())
                self._pairs[source].sendall(data)
                self.sent += len(data) * (source in self._clients)
            except OSError:
                data = b""
            if not data:
                self._drop(source)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        self.connections += 1
        if self._cut:
            client.close()
            return
        server = socket.create_connection(self._target)
        self._clients.add(client)
        for one, other in ((client, server), (server, client)):
            self._pairs[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _drop(self, one: socket.socket) -> None:
        for end in (one, self._pairs[one]):
            del self._pairs[end]
            self._selector.unregister(end)
            self._clients.discard(end)
            end.close()

    def _drop_all(self) -> None:
        for end in list(self._pairs):
            if end in self._pairs:
                self._drop(end)
