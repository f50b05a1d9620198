"""Connections to upstreams, as one request leaves them to the next."""

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from cloud.balancer import Balancer
from cloud.config import Properties
from cloud.eureka import Instance
from cloud.retry import RetryBudget
from gateway.exchange import Exchange, Reply
from gateway.proxy import Proxy
from gateway.settings import Settings
from tests.gateway.conftest import WAIT_S


async def test_who_leaves_as_its_answer_comes_takes_no_connection_from_the_next():
    """Within one turn of the loop the connection may be another request's already."""
    ended = asyncio.Event()

    async def serve(reader, writer):
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    settings = Settings.of(Properties.of({}))
    route: Any = SimpleNamespace(connect_timeout=WAIT_S, response_timeout=WAIT_S)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        instance = Instance("x", "X", ("x",), *server.sockets[0].getsockname()[:2])
        nobody: Any = SimpleNamespace(instances=lambda _: ())
        proxy = Proxy(lambda: settings, Balancer(nobody), RetryBudget())
        # The moment between an answer and who waits for it cannot be hit from outside.
        pool: Any = proxy._pool(instance, settings)  # noqa: SLF001
        following: asyncio.Future[asyncio.Future[Reply]] = asyncio.Future()

        def be_next():
            first.cancel()
            following.set_result(pool.rested().ask(Exchange("POST", "/", "/"), b"x", WAIT_S))

        def keep(upstream):
            del pool.keep
            pool.keep(upstream)
            asyncio.get_running_loop().call_soon(be_next)

        pool.keep = keep
        asked = proxy._attempt(Exchange("GET", "/", "/"), route, instance)  # noqa: SLF001
        first = asyncio.create_task(asked)
        with pytest.raises(asyncio.CancelledError):
            await first
        second = await asyncio.wait_for(following.result(), WAIT_S)
        assert second.status == 200
        proxy.close()
        await asyncio.wait_for(ended.wait(), WAIT_S)
