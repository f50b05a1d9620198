"""Live streams as they are served: gunicorn's worker that lets go of their sockets."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from structlog.testing import capture_logs

from cloud.clock import utc_now
from cloud.testing import bearer
from cloud.web import streams
from notification import app, service
from notification.schema import dump_push
from tests.notification.reader import Reader, draft
from tests.ports import free_port
from tests.waiting import eventually

ROOT = Path(app.__file__).parents[1]


class Served:
    """One worker with two threads."""

    def __init__(self, values: dict[str, str], log: Path) -> None:
        self.port = free_port()
        self._log = log.open("wb")
        worker = ("-k", "cloud.server.streaming.Worker", "-w", "1", "--threads", "2")
        self.process = subprocess.Popen(  # noqa: S603 - our own command
            [
                str(Path(sys.executable).with_name("gunicorn")),
                *worker,
                "--bind",
                f"127.0.0.1:{self.port}",
                "notification.wsgi:app",
            ],
            cwd=ROOT,
            env={**os.environ, "SPRING_APPLICATION_JSON": json.dumps(values)},  # noqa: TID251
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        eventually(lambda: self.get("/api/notifications").ok)

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(
            f"http://127.0.0.1:{self.port}{path}", headers=bearer(7), timeout=10, **options
        )

    def worker(self) -> int:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(path.read_text().split()[0])

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.worker()}/task").iterdir()))

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._log.close()


@pytest.fixture
def serve(settings, environment, tmp_path) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def start(**more: str) -> Served:
        values = {
            **settings,
            "jwt.secret": environment.properties.text("jwt.secret"),
            "spring.config.import": "optional:configserver:http://127.0.0.1:1",
            "spring.profiles.active": "test",
            "nozie.notification.stream.limit": "100",
            **more,
        }
        made.append(Served(values, tmp_path / f"{len(made)}.log"))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def read() -> Iterator[Callable[..., Reader]]:
    made: list[Reader] = []

    def connected(served: Served, user: int = 7, **more: str) -> Reader:
        made.append(Reader(served.port, {**bearer(user), **more}))
        return made[-1]

    yield connected
    for one in made:
        one.close()


def title(reader: Reader) -> str:
    event = reader.next()
    assert event is not None
    return str(event["data"]["title"])


@pytest.fixture
def tell(deps):
    def told(title: str) -> None:
        service.tell(
            draft(title),
            notifications=deps.notifications,
            announcements=deps.announcements,
            dump=dump_push,
            now=utc_now(),
        )

    return told


def test_many_streams_hold_no_thread_and_end_cleanly_with_the_worker(serve, read, tell):
    served = serve()
    before = served.threads()
    readers = [read(served) for _ in range(50)]
    assert {reader.status for reader in readers} == {200}
    assert served.get("/api/notifications").status_code == 200, "two threads, fifty streams"
    assert served.threads() <= before + 4
    readers[0].beat()
    tell("to all")
    assert [title(reader) for reader in readers] == ["to all"] * 50
    served.process.send_signal(signal.SIGTERM)
    # The last chunk is there: http.client would raise IncompleteRead without it.
    assert [reader.next() for reader in readers] == [None] * 50
    assert served.process.wait(10) == 0


def test_a_stream_whose_client_left_gives_its_place_back(serve, read):
    served = serve(**{"nozie.notification.stream.limit": "2"})
    held = [read(served) for _ in range(2)]
    assert read(served).status == 503
    held[0].close()
    eventually(lambda: read(served).status == 200)


def test_what_was_missed_comes_before_what_comes(serve, read, deps, tell):
    served = serve()
    (last, _), *_ = deps.notifications.add_many([draft("last")], now=utc_now())
    missed = [draft(f"missed {number}") for number in range(250)]
    deps.notifications.add_many(missed, now=utc_now())
    reader = read(served, **{"Last-Event-ID": last.id})
    titles = {title(reader) for _ in range(250)}
    assert titles == {f"missed {number}" for number in range(250)}
    tell("now")
    assert title(reader) == "now"


def test_what_was_missed_comes_piece_by_piece_to_a_reader_that_comes_back(serve, read, deps):
    served, moment = serve(), utc_now() - timedelta(hours=1)
    ((last, _),) = deps.notifications.add_many([draft("last")], now=moment)
    wanted = [f"missed {number}" for number in range(300)]
    for number, title in enumerate(wanted, 1):
        big = replace(draft(title), description="d" * 60_000)
        deps.notifications.add_many([big], now=moment + timedelta(seconds=2 * number))
    titles: list[str] = []
    key = last.id
    while len(titles) < 300:
        reader = read(served, **{"Last-Event-ID": key})
        while len(titles) < 300 and (event := reader.next()):
            titles.append(event["data"]["title"])
            key = event["id"]
    assert titles == wanted


def test_clients_that_missed_much_and_read_nothing_hold_no_thread(serve, deps):
    served = serve()
    (last, _), *_ = deps.notifications.add_many([draft("last")], now=utc_now())
    big = [replace(draft(f"missed {number}"), description="d" * 60_000) for number in range(80)]
    deps.notifications.add_many(big, now=utc_now())
    silent = []
    for _ in range(3):  # there are two threads
        own = socket.socket()
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        own.connect(("127.0.0.1", served.port))
        token = bearer(7)["Authorization"]
        head = f"GET /api/notifications/stream HTTP/1.1\r\nHost: x\r\nLast-Event-ID: {last.id}\r\n"
        own.sendall(f"{head}Authorization: {token}\r\n\r\n".encode())
        assert own.recv(12) == b"HTTP/1.1 200"
        silent.append(own)
    assert served.get("/api/notifications?size=1").status_code == 200
    for own in silent:
        own.close()


def test_an_old_client_gets_its_stream_without_chunks(serve, tell):
    served = serve()
    with socket.create_connection(("127.0.0.1", served.port), 10) as own:
        token = bearer(7)["Authorization"]
        own.sendall(
            b"GET /api/notifications/stream HTTP/1.0\r\nAuthorization: %b\r\n\r\n" % token.encode()
        )
        with own.makefile("rb") as lines:
            eventually(lambda: lines.readline().startswith(b": heartbeat"))
            tell("bare")
            eventually(lambda: lines.readline().startswith(b"event: notification"))


class Opened:
    """A stream of `cloud.web.streams` at one end of a pair of sockets."""

    def __init__(self, **options: Any) -> None:
        self.closed = threading.Event()
        self.client, self.own = socket.socketpair()
        own = self.own
        own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        given = {"heartbeat": 60.0, "until": time.monotonic() + 60, "limit": 5, **options}
        self.stream = streams.OpenStream(closed=self.closed.set, **given)
        streams.adopt(own, self.stream, chunked=False)


@pytest.fixture
def opened() -> Iterator[Callable[..., Opened]]:
    made: list[Opened] = []

    def one(**options: Any) -> Opened:
        made.append(Opened(**options))
        return made[-1]

    yield one
    for each in made:
        each.client.close()
        assert each.closed.wait(10)
    eventually(lambda: not [each for each in threading.enumerate() if each.name == "streams"])


def test_a_reader_that_is_too_slow_is_dropped(opened):
    slow, other = opened(), opened()
    for _ in range(200):
        slow.stream.send(b"x" * 1000)
    assert slow.closed.wait(10)
    other.stream.send(b"still here")
    assert other.client.recv(100) == b"still here"


def test_what_was_missed_waits_within_bounds_for_a_client_that_reads_later(opened):
    """It gets whole chunks and an end, and comes back for the rest."""
    reader = opened()
    for number in range(100):
        reader.stream.send(b"%02d" % number * 50_000, missed=True)
    reader.stream.send(b"later")
    received = b""
    reader.client.settimeout(10)
    while data := reader.client.recv(1 << 20):
        received += data
    count, rest = divmod(len(received), 100_000)
    assert rest == 0
    assert received == b"".join(b"%02d" % number * 50_000 for number in range(count))
    assert 10 <= count <= 12


def test_who_missed_much_is_as_slow_as_others_afterwards(opened):
    reader = opened()
    reader.client.settimeout(10)
    for _ in range(50):
        reader.stream.send(b"x" * 1000, missed=True)
        assert reader.client.recv(1000, socket.MSG_WAITALL)
    for _ in range(50):
        reader.stream.send(b"x" * 1000)
    assert reader.closed.wait(10)


def failing() -> None:
    raise ZeroDivisionError


def test_one_streams_fault_ends_no_other(opened):
    """The one writer of all goes on: a socket closed elsewhere, an end that fails."""
    other = opened(heartbeat=0.3)
    gone = opened(heartbeat=0.3)
    gone.own.close()
    client, own = socket.socketpair()
    with client, capture_logs() as said:
        failed = streams.OpenStream(heartbeat=0.3, until=time.monotonic(), limit=5, closed=failing)
        streams.adopt(own, failed, chunked=False)
        assert gone.closed.wait(10)
        eventually(lambda: [line for line in said if line["event"] == "stream_failed"])
    other.client.settimeout(10)
    for _ in range(3):
        assert other.client.recv(100).startswith(b": heartbeat")


def test_a_slow_reader_that_catches_up_misses_nothing(opened):
    reader = opened(limit=1000)
    sent = b"".join(b"%04d," % number for number in range(10_000))
    for start in range(0, len(sent), 1000):
        reader.stream.send(sent[start : start + 1000])
    received = b""
    reader.client.settimeout(10)
    while len(received) < len(sent):
        received += reader.client.recv(3000)
    assert received == sent


def test_a_reader_that_takes_nothing_is_dropped_after_two_heartbeats(opened):
    stuck = opened(heartbeat=0.3, limit=10_000)
    for _ in range(200):
        stuck.stream.send(b"x" * 1000)
    assert stuck.closed.wait(10)


def test_a_stream_ends_when_its_time_is_over(opened):
    assert opened(until=time.monotonic() + 0.3).closed.wait(10)


def test_a_word_from_the_reader_does_not_disturb(opened):
    reader = opened(heartbeat=0.3)
    reader.client.sendall(b"GET / HTTP/1.1\r\n\r\n" * 1000)
    assert reader.client.recv(100).startswith(b": heartbeat")


def test_users_are_told_apart(serve, read, tell):
    """One worker holds the streams of all."""
    served = serve()
    ann, bob = read(served), read(served, 8)
    ann.beat()
    tell("for Ann")
    assert title(ann) == "for Ann"
    bob.beat()
