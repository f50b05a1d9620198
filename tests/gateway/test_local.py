"""What the gateway answers itself, in its few threads."""

import asyncio
import threading

from gateway.edge.local import Local
from gateway.exchange import Exchange

THREADS = 2


async def test_a_fallback_does_not_stand_behind_pages_that_wait():
    go_on, busy = threading.Event(), threading.Semaphore(0)

    def application(environ, start_response):
        if environ["PATH_INFO"] == "/docs/openapi":
            busy.release()
            go_on.wait(30)
        start_response("503 Away", [])
        return [b"away"]

    local = Local(application, threads=THREADS)
    waiting = [
        asyncio.create_task(local.handle(Exchange("GET", "/docs/openapi", "/docs/openapi")))
        for _ in range(2 * THREADS)
    ]
    try:
        for _ in range(THREADS):
            await asyncio.to_thread(busy.acquire)
        asked = Exchange("GET", "/api/movies", "/api/movies")
        async with asyncio.timeout(10):
            reply = await local.forward(asked, "/fallback/movies")
        assert (reply.status, reply.body) == (503, b"away")
        assert not any(task.done() for task in waiting)
    finally:
        go_on.set()
        await asyncio.gather(*waiting)
        local.close()
