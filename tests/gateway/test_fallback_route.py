"""A fallback that is another route: it has the whole body, or is not asked at all."""

import asyncio
from collections.abc import Iterator

import pytest

from cloud.config import Properties
from cloud.errors import UpstreamError
from cloud.eureka import Instance
from gateway.exchange import Exchange, Stream
from gateway.proxy import Pool
from gateway.settings import Settings
from tests.gateway.conftest import ROUTES, WAIT_S, Answer, Gateway, Upstream, everything, settings

POST = b"POST /first/%s HTTP/1.1\r\nHost: api\r\nConnection: close\r\n"
FAILURES = ["fails", "stall", "reset"]


class Failing(Upstream):
    """Reads the whole request, then fails."""

    def fails(self, client, reader, head):
        self._body(head, reader)
        client.sendall(b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n{}")

    def stall(self, client, reader, head):
        self._body(head, reader)
        super().stall(client, reader)
        return False

    def reset(self, client, reader, head):
        self._body(head, reader)
        return super().reset(client)


@pytest.fixture(scope="module")
def failing() -> Iterator[Failing]:
    server = Failing()
    yield server
    server.close()


@pytest.fixture(scope="module")
def door(failing, upstream, store):
    breaker = {
        "name": "first",
        "fallbackUri": "forward:/second/x",
        "statusCodes": ["500"],
    }
    running = Gateway(
        {
            **settings(store),
            ROUTES: [
                {
                    "id": "first",
                    "uri": f"http://127.0.0.1:{failing.port}",
                    "predicates": ["Path=/first/**"],
                    "filters": [{"name": "CircuitBreaker", "args": breaker}],
                },
                {
                    "id": "second",
                    "uri": f"http://127.0.0.1:{upstream.port}",
                    "predicates": ["Path=/second/**"],
                },
            ],
            "nozie.gateway.public": ["ANY /**"],
            "nozie.gateway.timeouts.answer": "700ms",
            "resilience4j.circuitbreaker.instances.first.minimumNumberOfCalls": 1000,
            "resilience4j.circuitbreaker.instances.first.slidingWindowSize": 1000,
        },
        workers=1,
        tree={},
    )
    yield running
    running.stop()


@pytest.mark.parametrize("failure", FAILURES)
def test_a_small_body_is_sent_again_whole(door, failing, upstream, failure):
    answer = door.ask(f"/first/{failure}", "POST", b'{"a":1}')
    assert answer.status == 200
    assert upstream.heads[-1].startswith(b"POST /second/x ")
    assert (failing.bodies[-1], upstream.bodies[-1]) == (b'{"a":1}', b'{"a":1}')


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
def test_a_body_that_has_passed_goes_nowhere_else(door, failing, upstream, failure, chunked):
    """It cannot be had again: an empty or half request must not be made of it."""
    seen, had = len(upstream.heads), len(failing.heads)
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 200000"
    with door.open() as client:
        client.sendall(POST % failure.encode() + framing + b"\r\n\r\n")
        body = b"x" * 200_000
        client.sendall(b"30d40\r\n" + body + b"\r\n0\r\n\r\n" if chunked else body)
        answer = Answer(everything(client))
    assert (answer.status, answer.json()["success"]) == (503, False)
    assert (len(failing.heads), len(failing.bodies[-1])) == (had + 1, 200_000)
    assert len(upstream.heads) == seen
    assert door.ask("/second/y", "POST", b"mine").status == 200
    assert upstream.bodies[-1] == b"mine", "no request of somebody else is taken for the rest"


class _Source:
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def abandon(self) -> None: ...


async def test_a_connection_on_which_a_body_stayed_short_is_never_used_again():
    """Whatever the reason: an upstream that did not wait for the body keeps its connection."""
    ended = asyncio.Event()

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await reader.read()  # until it is closed
        ended.set()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        instance = Instance("x", "X", ("x",), *server.sockets[0].getsockname()[:2])
        pool = Pool(instance, Settings.of(Properties.of({})))
        upstream = await pool.acquire(WAIT_S)
        body = Stream(_Source(), length=9)
        body.feed(b"half")
        answer = upstream.ask(Exchange("POST", "/", "/", body=body), b"x", WAIT_S)
        body.end()
        with pytest.raises(UpstreamError):
            await asyncio.wait_for(answer, WAIT_S)
        await asyncio.wait_for(ended.wait(), WAIT_S)
        assert pool.rested() is None
        assert not pool.open
