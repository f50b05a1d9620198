"""A server that answers as a test wants, where a Config Server is expected."""

import json
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Reply = Callable[[str, dict[str, str]], tuple[int, object]]
NOWHERE = "http://127.0.0.1:1"


class Server:
    """Answers as `reply` says and remembers what was asked."""

    def __init__(self, port: int = 0) -> None:
        self.reply: Reply = lambda _path, _headers: (200, answer())
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.bodies: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                size = int(headers.get("content-length", 0))
                outer.bodies.append(self.rfile.read(size).decode())
                outer.asked.append((self.path, headers))
                status, body = outer.reply(self.path, headers)
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "http://elsewhere.invalid/")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with suppress(BrokenPipeError):  # a client that waits no longer
                    self.wfile.write(content)

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, *_args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


def answer(*sources: tuple[str, Mapping[str, object]], **more: object) -> dict[str, object]:
    listed = [{"name": name, "source": values} for name, values in sources]
    return {"name": "app", "profiles": ["dev"], "propertySources": listed, **more}
