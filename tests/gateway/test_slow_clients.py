"""Clients that read slowly: what they are given, and that they are not waited for for ever."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.conftest import ROUTES, WAIT_S, Answer, Gateway, Upstream, everything, settings
from tests.waiting import eventually

# More than all buffers on the way can hold, and each answer complete at once.
MANY, SIZE = 30, 250_000
ASK = b"GET /large HTTP/1.1\r\nHost: api\r\n\r\n"


class Large(Upstream):
    """Answers at length."""

    def large(self, client, *_):
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE + b"x" * SIZE)


@pytest.fixture(scope="module")
def large() -> Iterator[Large]:
    server = Large()
    yield server
    server.close()


@pytest.fixture(scope="module")
def door(large, store):
    route = {
        "id": "large",
        "uri": f"http://127.0.0.1:{large.port}",
        "predicates": ["Path=/**"],
    }
    running = Gateway(
        {
            **settings(store),
            ROUTES: [route],
            "nozie.gateway.public": ["ANY /**"],
            "nozie.gateway.timeouts.idle": "1s",
            "nozie.gateway.timeouts.head": "1s",
            "nozie.gateway.timeouts.stall": "3s",
        },
        workers=1,
        tree={},
    )
    yield running
    running.stop()


def narrow(door: Gateway) -> socket.socket:
    """Open a connection that takes little at a time."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(WAIT_S)
    client.connect(("127.0.0.1", door.port))
    return client


def answer(client: socket.socket) -> None:
    """Read one of the large answers."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = client.recv(1)
        assert part
        head += part
    left = SIZE
    while left and (part := client.recv(left)):
        left -= len(part)
    assert not left


def test_a_kept_connection_is_closed_in_time_after_a_slow_read(door):
    with narrow(door) as client:
        client.sendall(ASK * MANY)
        for _ in range(MANY):
            answer(client)
        assert everything(client) == b"", "not open for ever"


def test_half_a_head_is_not_waited_for_for_ever_after_a_slow_read(door):
    with narrow(door) as client:
        client.sendall(ASK * MANY + b"GET /large HT")
        for _ in range(MANY):
            answer(client)
        assert Answer(everything(client)).status == 408


def test_who_asks_on_without_reading_is_not_served_on(door, large):
    """Else answers would pile up in memory, as many as a client cares to ask for."""
    assert door.ask("/large").status == 200
    worker = Path(f"/proc/{door.workers()[0]}/fd")
    held, seen = len(list(worker.iterdir())), len(large.heads)
    with narrow(door) as client:
        client.sendall(ASK * MANY)
        eventually(lambda: len(large.heads) > seen)
        eventually(lambda: len(list(worker.iterdir())) <= held)
        assert len(large.heads) - seen < MANY
