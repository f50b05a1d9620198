"""A door before a server: closed, the server is away; open, it is back. And it counts requests."""

import select
import socket
import threading
import time


class Door:
    """Passes bytes between its own port and a server's, while it is open.

    Attributes:
        requests: the lines of those that came by.
        times: when they did, in monotonic seconds.
    """

    def __init__(self, address: str) -> None:
        host, port = address.split(":")
        self._behind = (host, int(port))
        self._is_open = True
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self.port = self._listener.getsockname()[1]
        self.requests: list[str] = []
        self.times: list[float] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def shut(self) -> None:
        """Cut all connections; new ones are cut at once."""
        with self._lock:
            self._is_open = False
            for pair in self._pairs:
                for end in pair:
                    _cut(end)
            self._pairs.clear()

    def open(self) -> None:
        self._is_open = True

    def close(self) -> None:
        self.shut()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if not self._is_open:
                    near.close()
                    continue
                far = socket.create_connection(self._behind, timeout=5)
                far.settimeout(None)
                self._pairs.append((near, far))
            threading.Thread(target=self._pass_on, args=(near, far), daemon=True).start()

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        try:
            while True:
                for source in select.select([near, far], [], [])[0]:
                    piece = source.recv(65536)
                    if not piece:
                        return
                    if source is near and b" HTTP/1.1\r\n" in piece:
                        self.times.append(time.monotonic())
                        self.requests.append(piece.split(b" HTTP/1.1", 1)[0].decode())
                    (far if source is near else near).sendall(piece)
        except (OSError, ValueError):
            return
        finally:
            near.close()
            far.close()


def _cut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
