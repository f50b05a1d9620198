"""What services say beside an answer's own head and body concerns nobody behind the gateway."""

from collections.abc import Iterator

import pytest

from tests.gateway.conftest import ROUTES, Gateway, Upstream, settings
from tests.waiting import eventually

MORE = b"HTTP/1.1 400 Bad Request\r\nX-More: 1\r\nContent-Length: 3\r\n\r\nno!"


class Talkative(Upstream):
    """Says more than it should, each time in one piece."""

    def hops(self, client, *_):
        client.sendall(
            b"HTTP/1.1 103 Early Hints\r\nConnection: X-Late\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop,\tx-other\r\nX-HOP: 1\r\n"
            b"X-Late: 1\r\nConnection: Cache-Control\r\nCache-Control: no-store\r\nX-Other: 1\r\n"
            b"Content-Length: 2\r\n\r\n{}"
        )

    def trailer(self, client, *_):
        client.sendall(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
            b"X-Trailer: 1\r\n\r\n"
        )

    def two(self, client, *_):
        client.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}" + MORE)

    def two_chunked(self, client, *_):
        client.sendall(
            b"HTTP/1.1 413 Too Large\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\n{}\r\n0\r\n\r\n" + MORE
        )

    def no_content(self, client, *_):
        client.sendall(b"HTTP/1.1 204 No Content\r\n\r\n" + MORE)

    def headed(self, client, *_):
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


@pytest.fixture(scope="module")
def talkative() -> Iterator[Talkative]:
    server = Talkative()
    yield server
    server.close()


@pytest.fixture(scope="module")
def door(talkative, store):
    uri = f"http://127.0.0.1:{talkative.port}"
    running = Gateway(
        {
            **settings(store),
            ROUTES: [{"id": "a", "uri": uri, "predicates": ["Path=/**"]}],
            "nozie.gateway.public": ["ANY /**"],
        },
        workers=1,
        tree={},
    )
    yield running
    running.stop()


def test_what_connection_names_ends_here_but_not_what_is_for_everybody(door):
    answer = door.ask("/hops")
    assert (answer.status, answer.body) == (200, b"{}")
    assert not {"x-hop", "x-other"} & answer.headers.keys()
    assert (answer.headers["cache-control"], answer.headers["x-late"]) == ("no-store", "1")


def test_a_trailer_of_an_answer_sets_nothing(door):
    answer = door.ask("/trailer")
    assert (answer.status, answer.body) == (200, b"{}")
    assert "x-trailer" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/two", 413),
        ("GET", "/two-chunked", 413),
        ("GET", "/no-content", 204),
        ("HEAD", "/headed", 200),
    ],
)
def test_what_comes_beyond_an_answer_ends_the_connection(door, talkative, method, path, status):
    answer = door.ask(path, method)
    assert answer.status == status
    assert "x-more" not in answer.headers
    assert b"no!" not in answer.raw
    connections = talkative.connections
    following = door.ask("/x")
    assert (following.status, following.json()) == (200, {"ok": True})
    eventually(lambda: talkative.connections == connections + 1)
