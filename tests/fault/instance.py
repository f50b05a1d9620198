"""One instance of a service as a process of its own: it can be killed, stopped and slowed."""

import json
import socket
import sys
import threading
import time
from contextlib import suppress


class Instance:
    """Answers every request at once, unless the file at `path` says otherwise.

    Its words: `ok`, `slow` (two seconds), `reset`, `garbage`, `error` (503). Each request leaves
    a dot in the file `path`.seen.
    """

    def __init__(self, port: int, path: str) -> None:
        self._path = path
        self._listener = socket.create_server(("127.0.0.1", port), backlog=256)

    def serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _mode(self) -> str:
        with open(self._path) as file:  # noqa: PTH123 - as little as possible between requests
            return file.read().strip()

    def _answer(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as reader, suppress(OSError):
            while reader.readline():
                while reader.readline() not in {b"\r\n", b""}:
                    pass
                with open(f"{self._path}.seen", "ab") as seen:  # noqa: PTH123
                    seen.write(b".")
                mode = self._mode()
                if mode == "slow":
                    time.sleep(2)  # noqa: TID251 - being slow is what it is for
                if mode == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    return
                if mode == "garbage":
                    client.sendall(b"this is no HTTP\r\n\r\n")
                    return
                body = json.dumps({"from": self._listener.getsockname()[1]}).encode()
                status = b"503 Away" if mode == "error" else b"200 OK"
                client.sendall(
                    b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                    % (status, len(body), body)
                )


if __name__ == "__main__":
    Instance(int(sys.argv[1]), sys.argv[2]).serve()
