"""Bodies larger than a buffer, one after another on connections that are kept."""

import socket

from tests.gateway.conftest import bearer

SIZE = 100 * 1024


def answered(client: socket.socket) -> bytes:
    """Read one answer with a Content-Length; return its body."""
    found = b""
    while b"\r\n\r\n" not in found:
        found += client.recv(2**16)
    head, _, body = found.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        part = client.recv(2**16)
        assert part
        body += part
    return body


def test_large_answers_follow_each_other_on_kept_connections(gateway, upstream):
    """The client's full buffer stops the upstream; it must not stay stopped for the next one."""
    request = f"GET /api/movies/page HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer()}\r\n\r\n"
    with gateway.open() as client:
        for _ in range(5):
            client.sendall(request.encode())
            assert len(answered(client)) == SIZE


def test_large_bodies_follow_each_other_on_kept_connections(gateway, upstream):
    """The upstream's full buffer stops the client; it must not stay stopped for the next one."""
    head = (
        f"POST /api/movies/upload HTTP/1.1\r\nHost: x\r\nContent-Length: {SIZE}\r\n"
        f"Authorization: {bearer(7, 'ADMIN')}\r\n\r\n"
    )
    with gateway.open() as client:
        for _ in range(5):
            client.sendall(head.encode() + b"x" * SIZE)
            assert answered(client) == str(SIZE).encode()
