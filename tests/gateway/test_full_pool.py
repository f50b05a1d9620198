"""A pool that is full is our own affair: no instance and no breaker suffers for it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.gateway.conftest import ROUTES, WAIT_S, Gateway, Upstream, settings
from tests.waiting import eventually

SIMPLE = "spring.cloud.discovery.client.simple.instances"


class Holding(Upstream):
    """Answers when it may."""

    def hold(self, client, *_):
        self.go_on.wait(WAIT_S)
        self.ok(client)


@pytest.fixture
def holding() -> Iterator[Holding]:
    server = Holding()
    yield server
    server.close()


def test_calls_for_which_there_is_no_connection_come_back_later(holding, store):
    door = Gateway(
        {
            **settings(store),
            f"{SIMPLE}.movie-service[0].uri": f"http://127.0.0.1:{holding.port}",
            ROUTES: [{"id": "a", "uri": "lb://movie-service", "predicates": ["Path=/**"]}],
            "nozie.gateway.public": ["ANY /**"],
            "spring.cloud.gateway.httpclient.pool.max-connections": 1,
        },
        workers=1,
        tree={},
    )
    try:
        with ThreadPoolExecutor(1) as other:
            held = other.submit(door.ask, "/hold")
            eventually(lambda: holding.heads)
            answers = [door.ask("/x", method) for method in ("GET", "POST") * 10]
            holding.go_on.set()
            assert held.result(WAIT_S).status == 200
        told = {(answer.status, answer.headers.get("retry-after")) for answer in answers}
        assert told == {(503, "1")}
        assert door.ask("/x").status == 200
        assert not [line for line in door.lines if "ejected" in line or "upstream_failed" in line]
    finally:
        door.stop()
