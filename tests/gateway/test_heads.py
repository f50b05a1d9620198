"""What is not read a second time, or not by llhttp, means what llhttp makes of it."""

import random

import httptools
import pytest

from gateway.handler.arrival import Familiar, arrive, meaning
from gateway.proxy import _DROPPED, _plain
from tests.gateway.conftest import bearer, everything

FIELDS = b"Host: api\r\nAccept: */*\r\nAuthorization: Bearer x\r\nOrigin: https://a\r\n\r\n"
HEAD = b"GET /a/b?c=d HTTP/1.1\r\n" + FIELDS
PEER = "10.0.0.7"
SETTINGS = object()


def arrived(target=b"/a/b?c=d", method=b"GET"):
    lines = (line.split(b": ") for line in FIELDS.split(b"\r\n") if line)
    return arrive(
        method, target, "1.1", [(name.lower(), value) for name, value in lines],
        peer=PEER, trusted=(),
    )  # fmt: skip


@pytest.fixture
def familiar() -> Familiar:
    known = Familiar()
    known.keep(HEAD, PEER, SETTINGS, meaning(arrived()))
    return known


@pytest.mark.parametrize(
    ("line", "method", "target"),
    [
        (b"GET /a/b?c=d HTTP/1.1\r\n", b"GET", b"/a/b?c=d"),
        (b"DELETE /other/%C3%A4 HTTP/1.1\r\n", b"DELETE", b"/other/%C3%A4"),
        (b"HEAD /? HTTP/1.1\r\n", b"HEAD", b"/?"),
    ],
)
def test_known_fields_behind_any_request_line_make_the_same_exchange(
    familiar, line, method, target
):
    assert familiar.find(line + FIELDS, PEER, SETTINGS) == arrived(target, method)


def test_what_one_request_adds_is_not_there_for_the_next(familiar):
    familiar.find(HEAD, PEER, SETTINGS).headers.append((b"x-user-id", b"1"))
    assert familiar.find(HEAD, PEER, SETTINGS) == arrived()


@pytest.mark.parametrize(
    "data",
    [
        HEAD.replace(b"*/*", b"*"),
        HEAD + b"GET / HTTP/1.1\r\n",
        b"\r\n" + HEAD,
        HEAD.replace(b"1.1", b"1.0"),
        HEAD.replace(b"GET", b"TRACE"),
        HEAD.replace(b"/a/b", b"//a"),
        HEAD.replace(b"/a/b", b"/a/../b"),
        HEAD.replace(b"/a/b", b"/a%2fb"),
        HEAD.replace(b"/a/b", b"http://x/a"),
        HEAD.replace(b"/a/b", b"/a#b"),
        HEAD.replace(b"/a/b", b"/a b"),
        HEAD.replace(b"/a/b", b"/" + b"a" * 300),
        HEAD[:-2],
        FIELDS,
    ],
    ids=lambda data: repr(data[:24]),
)
def test_all_that_is_unusual_is_read_by_the_parser(familiar, data):
    assert familiar.find(data, PEER, SETTINGS) is None


def test_another_peer_or_other_settings_know_nothing(familiar):
    assert familiar.find(HEAD, "10.0.0.8", SETTINGS) is None
    assert familiar.find(HEAD, PEER, object()) is None


@pytest.mark.parametrize(
    "data", [HEAD + b"x", b"tail\r\n" + HEAD, HEAD[:-2]], ids=["more", "after a body", "half"]
)
def test_only_one_whole_request_is_remembered(data):
    known = Familiar()
    known.keep(data, PEER, SETTINGS, meaning(arrived()))
    assert known.find(HEAD, PEER, SETTINGS) is None


def test_each_request_of_a_kept_connection_is_judged_by_itself(gateway):
    """The fields are known from the second request on; path, roles and limits are not."""
    fields = f"Host: api\r\nAuthorization: {bearer(7)}\r\n\r\n".encode()
    paths = [b"/search/a", b"/search/b", b"/api/admin/users", b"//search", b"/search/c"]
    with gateway.open() as client:
        statuses = []
        for path in paths[:-1]:
            client.sendall(b"GET " + path + b" HTTP/1.1\r\n" + fields)
            statuses.append(int(client.recv(65536).split()[1]))
        # What cannot be understood is the connection's last request, as ever.
        client.sendall(b"GET " + paths[-1] + b" HTTP/1.1\r\n" + fields)
        assert everything(client) == b""
    assert statuses == [200, 200, 403, 400]


class Answer:
    """What llhttp makes of an answer's head."""

    def __init__(self, head: bytes) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.whole = False
        httptools.HttpResponseParser(self).feed_data(head)

    def on_header(self, name, value):
        self.headers.append((name, value))

    def on_headers_complete(self):
        self.whole = True


def test_a_plain_answer_is_what_the_parser_says():
    """Of many mutations of a head: what is taken without the parser, the parser takes alike."""
    start, end = b"HTTP/1.1 200 OK\r\n", b"\r\n\r\n"
    fields = (
        b'Server: x/1\r\nContent-Type: text/plain; a="b"\r\nContent-Length: 12\r\nX-A:  b \r\n'
        b'ETag: "1"\r\nAccess-Control-Allow-Origin: *\r\nConnection: keep-alive\r\nx-b: a:b'
    )  # fmt: skip
    drawn = random.Random(7)  # noqa: S311
    odd = b"\r\n\0 :\t,;()\x7f\x80\xffAa0_-"
    taken = 0
    for _ in range(20_000):
        made = bytearray(fields.replace(b"X-A:  b \r\n", b"X-A: b\r\n"))
        for _ in range(drawn.randrange(3)):
            at = drawn.randrange(len(made))
            made[at : at + drawn.randrange(2)] = bytes([drawn.choice(odd)])
        head = start + made + end
        found = _plain(bytes(head), len(start), len(head) - 2)
        if found is None:
            continue
        taken += 1
        read = Answer(bytes(head))
        assert read.whole
        lengths = [value for name, value in read.headers if name.lower() == b"content-length"]
        assert [int(value) for value in lengths] == [found[1]]
        kept = [
            (name, value) for name, value in read.headers
            if name.lower() not in _DROPPED and not name.lower().startswith(b"access-control-")
        ]  # fmt: skip
        assert found[0] == kept
    assert taken > 5_000
