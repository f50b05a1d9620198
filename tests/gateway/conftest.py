"""A real gateway (gunicorn, two workers) before real upstreams that misbehave on demand."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
import yaml

from cloud.security import DEFAULT_SECRET, sign
from tests.ports import free_port
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
WAIT_S = 15


# The breaker of the route on which upstreams misbehave: it must not open in the middle of a table.
PATIENT = "resilience4j.circuitbreaker.instances.movieServiceCircuitBreaker"
ROUTES = "spring.cloud.gateway.server.webflux.routes"


EPOCH = "nozie:identity:epoch"
COMPAT_PORT = free_port()


def bearer(user: int = 7, *roles: str, **claims: object) -> str:
    now = int(time.time())
    base = {"jti": os.urandom(8).hex(), "sub": str(user), "username": f"user{user}",
            "roles": list(roles), "permissions": [], "type": "ACCESS", "iat": now,
            "exp": now + 600}  # fmt: skip
    return f"Bearer {sign(base | claims, DEFAULT_SECRET)}"


class Upstream:
    """An HTTP server of few words: reads one request, then does what the path names."""

    def __init__(self, port: int = 0) -> None:
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.closed = threading.Event()
        self.go_on = threading.Event()
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def close(self) -> None:
        self.go_on.set()
        self._listener.close()

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as reader, suppress(OSError, ValueError):
            while head := self._head(reader):
                self.heads.append(head)
                path = head.split(b" ", 2)[1].decode()
                action = getattr(
                    self, path.split("?")[0].rsplit("/", 1)[-1].replace("-", "_"), None
                )
                if action is None:
                    self._body(head, reader)
                    action = self.ok
                if action(client, reader, head) is False:
                    return

    @staticmethod
    def _head(reader) -> bytes:
        lines = []
        while (line := reader.readline()) not in {b"\r\n", b""}:
            lines.append(line)
        return b"".join(lines)

    def _body(self, head: bytes, reader) -> None:
        if length := re.search(rb"(?i)content-length: (\d+)", head):
            self.bodies.append(reader.read(int(length[1])))
        elif b"chunked" in head:
            body = b""
            while size := int(reader.readline(), 16):
                body += reader.read(size)
                reader.readline()
            reader.readline()
            self.bodies.append(body)

    def ok(self, client, *_):
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Up: 1\r\n"
                       b"Access-Control-Allow-Origin: *\r\nX-Correlation-Id: service\r\n"
                       b'Content-Length: 11\r\n\r\n{"ok":true}')  # fmt: skip

    def page(self, client, *_):
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 102400\r\n\r\n" + b"x" * 102400)

    def chunked(self, client, *_):
        client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        client.sendall(b"4\r\ndefg\r\n0\r\n\r\n")

    def until_close(self, client, *_):
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        return False

    def no_content(self, client, *_):
        client.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    def not_modified(self, client, *_):
        client.sendall(b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 99\r\n\r\n")

    def hints(self, client, *_):
        client.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        self.ok(client)

    def headed(self, client, *_):
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")

    def stall(self, client, reader, *_):
        client.settimeout(WAIT_S)
        self.closed.clear()
        if not reader.read(1):
            self.closed.set()
        return False

    def reset(self, client, *_):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return False

    def garbage(self, client, *_):
        client.sendall(b"this is no HTTP\r\n\r\n")
        return False

    def two_lengths(self, client, *_):
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd")
        return False

    def endless_head(self, client, *_):
        client.sendall(b"HTTP/1.1 200 OK\r\n")
        for number in range(10_000):
            client.sendall(b"X-%d: %b\r\n" % (number, b"x" * 1000))
        return False

    def half(self, client, *_):
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        return False

    def half_chunked(self, client, *_):
        client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel")
        return False

    def broken(self, client, *_):
        client.sendall(b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n{}")

    def events(self, client, reader, *_):
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                       b"Transfer-Encoding: chunked\r\n\r\nd\r\ndata: first\n\n\r\n")  # fmt: skip
        self.go_on.wait(WAIT_S)
        self.go_on.clear()
        client.sendall(b"e\r\ndata: second\n\n\r\n")
        self.stall(client, reader)
        return False

    def download(self, client, *_):
        size = 2**30
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        block = b"x" * 2**20
        for _part in range(size // len(block)):
            client.sendall(block)

    def upload(self, client, reader, head):
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        left = length
        while left and (data := reader.read(min(left, 2**20))):
            left -= len(data)
        body = str(length - left).encode()
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    def early(self, client, *_):
        client.sendall(
            b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
        )
        return False


class Gateway:
    """A gunicorn of our own; `say` speaks raw HTTP to it."""

    def __init__(
        self,
        changes: dict[str, object],
        *options: str,
        workers: int = 2,
        tree: dict[str, object] | None = None,
    ) -> None:
        self.port = free_port()
        self._run = tempfile.TemporaryDirectory(prefix="nozie-gateway-")
        self.run_folder = self._run.name
        served = (ROOT / "deploy" / "config" / "api-gateway.yml").read_text()
        tree = yaml.safe_load(served) if tree is None else tree
        flat = {
            "server.port": self.port,
            "spring.config.import": "",
            "spring.profiles.active": "test",
            "eureka.client.enabled": False,
            "nozie.server.deregister-wait": "0s",
            "nozie.server.run-dir": self._run.name,
            "management.tracing.sampling.probability": 0,
            "nozie.gateway.limits.user": 10**6,
            "nozie.gateway.limits.ip": 10**6,
        }
        env = {**os.environ, "PYTHONPATH": str(ROOT),  # noqa: TID251 - a process of its own
               "SPRING_APPLICATION_JSON": json.dumps(tree | flat | changes)}  # fmt: skip
        self.process = subprocess.Popen(  # noqa: S603
            [
                sys.executable,
                "-m",
                "gunicorn",
                *options,
                "--no-control-socket",
                "-b",
                f"127.0.0.1:{self.port}",
                "-k",
                "gateway.edge.EdgeWorker",
                "-w",
                str(workers),
                "--graceful-timeout",
                "5",
                "gateway.wsgi:app",
            ],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        ready = b"GET /actuator/health/readiness HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        eventually(lambda: b" 200 " in self.say(ready)[:20])

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.decode())

    def open(self, source: str = "127.0.0.1", port: int = 0) -> socket.socket:
        # Bound beforehand, a port has to be free of all that was ever closed a minute ago.
        bound = None if source == "127.0.0.1" else (source, 0)
        return socket.create_connection(("127.0.0.1", port or self.port), WAIT_S, bound)

    def say(self, data: bytes, source: str = "127.0.0.1") -> bytes:
        """Send bytes, return everything until the gateway closes."""
        with self.open(source) as client:
            client.sendall(data)
            return everything(client)

    def ask(self, path: str, method: str = "GET", body: bytes = b"", source: str = "127.0.0.1",
            **headers: str) -> "Answer":  # fmt: skip
        lines = [f"{method} {path} HTTP/1.1", "Host: api", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        return Answer(self.say("\r\n".join([*lines, "", ""]).encode() + body, source))

    def workers(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        children = [int(pid) for pid in path.read_text().split()]
        return [pid for pid in children if _is_worker(pid)]

    def peak_mib(self) -> int:
        """The most memory that a worker ever had resident."""
        texts = [Path(f"/proc/{pid}/status").read_text() for pid in self.workers()]
        return max(int(re.search(r"VmHWM:\s+(\d+)", text)[1]) for text in texts) // 1024  # type: ignore[index]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(WAIT_S)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join(WAIT_S)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self._run.cleanup()


def _is_worker(pid: int) -> bool:
    """Tell workers from companions, by what they are called."""
    with suppress(OSError):
        return b": worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


class Answer:
    """One raw answer, taken apart."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self.fields = [tuple(line.split(": ", 1)) for line in lines]
        self.headers = {field[0].lower(): field[-1] for field in self.fields}

    def json(self):
        return json.loads(self.body)


def everything(client: socket.socket) -> bytes:
    found = b""
    with suppress(ConnectionResetError):
        while data := client.recv(2**16):
            found += data
    return found


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.close()


def settings(store: redis.Redis) -> dict[str, object]:
    found = store.connection_pool.connection_kwargs
    return {f"spring.data.redis.{key}": found[name]
            for key, name in (("host", "host"), ("port", "port"), ("database", "db"))}  # fmt: skip


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, store: redis.Redis) -> Iterator[Gateway]:
    simple = "spring.cloud.discovery.client.simple.instances"
    live, dead = f"http://127.0.0.1:{upstream.port}", f"http://127.0.0.1:{free_port()}"
    running = Gateway(
        {
            **settings(store),
            f"{simple}.movie-service[0].uri": live,
            f"{simple}.identity-service[0].uri": live,
            f"{simple}.notification-service[0].uri": live,
            f"{simple}.customer-service[0].uri": dead,
            f"{simple}.customer-service[0].metadata.hint": "canary",
            f"{simple}.customer-service[1].uri": live,
            f"{simple}.payment-service[0].uri": dead,
            "nozie.gateway.compat-port": COMPAT_PORT,
            f"{ROUTES}[5].id": "uploads",
            f"{ROUTES}[5].uri": "lb://movie-service",
            f"{ROUTES}[5].predicates[0]": "Path=/upload",
            f"{ROUTES}[5].filters[0]": "RequestSize=2GB",
            f"{ROUTES}[6].id": "bad",
            f"{ROUTES}[6].uri": "lb://movie-service",
            f"{ROUTES}[6].predicates[0]": "Path=/**",
            f"{ROUTES}[6].filters[0]": "NoSuchFilter",
            "nozie.gateway.timeouts.answer": "700ms",
            "nozie.gateway.timeouts.head": "1s",
            "nozie.gateway.timeouts.stall": "2s",
            "nozie.cors.allowed-origins": "https://nozie.app",
            f"{PATIENT}.minimumNumberOfCalls": 10000,
            f"{PATIENT}.slidingWindowSize": 10000,
        }
    )
    yield running
    running.stop()


class OwnRedis:
    """A Redis that may be killed."""

    def __init__(self, folder: Path) -> None:
        self.port, self._folder = free_port(), folder
        self.client = redis.Redis(port=self.port, socket_timeout=2)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(  # noqa: S603
            ["/usr/bin/redis-server", "--port", str(self.port), "--bind", "127.0.0.1",
             "--save", "", "--dir", str(self._folder)], stdout=subprocess.DEVNULL)  # fmt: skip
        eventually(self.client.ping)

    def remember(self) -> None:
        """Do as identity does once every revocation is there."""
        self.client.set(EPOCH, self.client.info("server")["run_id"])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        self.client.close()
