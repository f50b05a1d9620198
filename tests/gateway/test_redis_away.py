"""Redis gone, back, and back without its memory; an upstream that dies and returns."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.gateway.conftest import Gateway, OwnRedis, Upstream, bearer
from tests.ports import free_port
from tests.waiting import eventually

REVOCATIONS = "nozie:identity:revocations"
SIMPLE = "spring.cloud.discovery.client.simple.instances"


@pytest.fixture
def own_redis(tmp_path) -> Iterator[OwnRedis]:
    with closing(OwnRedis(tmp_path)) as server:
        yield server


@pytest.fixture
def door(own_redis, upstream) -> Iterator[Gateway]:
    live = f"http://127.0.0.1:{upstream.port}"
    running = Gateway(
        {
            "spring.data.redis.host": "127.0.0.1",
            "spring.data.redis.port": own_redis.port,
            "nozie.gateway.blacklist-grace": "1s",
            f"{SIMPLE}.movie-service[0].uri": live,
            f"{SIMPLE}.identity-service[0].uri": live,
        },
        workers=1,
    )
    yield running
    running.stop()


def test_without_redis_requests_pass_until_the_grace_is_over(door, own_redis):
    own_redis.remember()
    auth = bearer(7, "ADMIN", sid="1")
    assert door.ask("/api/movies", "POST", Authorization=auth).status == 200
    own_redis.kill()
    assert door.ask("/api/movies", Authorization=auth).status == 200
    eventually(lambda: door.ask("/api/movies", "POST", Authorization=auth).status == 503)
    assert door.ask("/api/admin/users", Authorization=auth).status == 503
    assert door.ask("/api/movies", Authorization=auth).status == 200
    logins = [
        door.ask("/api/auth/login", "POST", b"{}", "127.0.4.1", Authorization=auth).status
        for _ in range(7)
    ]
    assert logins == [200] * 5 + [429] * 2
    assert sum("redis_away" in line for line in door.lines) == 1

    own_redis.start()
    own_redis.remember()
    eventually(lambda: door.ask("/api/movies", "POST", Authorization=auth).status == 200)
    assert any("redis_back" in line for line in door.lines)


def test_a_revoked_token_never_works_again_whatever_redis_forgets(door, own_redis):
    own_redis.remember()
    revoked, other = bearer(7, "ADMIN", jti="r", sid="1"), bearer(8, "ADMIN", sid="2")
    own_redis.client.set("token:blacklist:r", "1", ex=600)
    assert door.ask("/api/movies", Authorization=revoked).status == 401
    assert door.ask("/api/movies", Authorization=other).status == 200
    own_redis.kill()
    assert door.ask("/api/movies", Authorization=revoked).status == 401
    own_redis.start()  # empty, and nobody has filled it yet
    eventually(lambda: any("redis_back" in line for line in door.lines))
    assert door.ask("/api/movies", Authorization=revoked).status == 401
    eventually(lambda: door.ask("/api/movies", "POST", Authorization=other).status == 503)
    own_redis.remember()
    assert door.ask("/api/movies", "POST", Authorization=other).status == 200


def told(own: OwnRedis, jti: str) -> None:
    """Revoke as identity does."""
    own.client.set(f"token:blacklist:{jti}", "1", ex=600)
    own.client.xadd(REVOCATIONS, {"jti": jti, "exp": int(time.time()) + 600})


@pytest.mark.parametrize("tried", [True, False], ids=["tried before", "never tried before"])
def test_no_worker_believes_a_revoked_token_while_redis_is_away_or_empty(
    own_redis, upstream, tried
):
    """Neither the one that never saw it, nor one that is forked while nobody can be asked."""
    own_redis.remember()
    running = Gateway(
        {
            "spring.data.redis.host": "127.0.0.1",
            "spring.data.redis.port": own_redis.port,
            f"{SIMPLE}.movie-service[0].uri": f"http://127.0.0.1:{upstream.port}",
        },
        workers=3,
    )
    revoked, other = bearer(7, jti=f"jti-{tried}", sid="1"), bearer(8, sid="2")

    def statuses(authorization: str) -> set[int]:
        return {running.ask("/api/movies", Authorization=authorization).status for _ in range(40)}

    def loaded() -> int:
        return sum("routes_loaded" in line for line in running.lines)

    try:
        eventually(lambda: loaded() == 3)
        if tried:
            # An identity service of the JVM writes the key alone: the one worker that is asked
            # tells the others.
            own_redis.client.set(f"token:blacklist:jti-{tried}", "1", ex=600)
            assert running.ask("/api/movies", Authorization=revoked).status == 401
        else:
            told(own_redis, f"jti-{tried}")
            shared = Path(running.run_folder) / "revoked.jsonl"
            eventually(lambda: f"jti-{tried}" in shared.read_text())
        own_redis.kill()
        assert statuses(revoked) == {401}
        before = running.workers()
        for worker in before[:2]:
            os.kill(worker, signal.SIGKILL)
        eventually(lambda: len(set(running.workers()) - set(before)) == 2)
        eventually(lambda: loaded() == 5)
        assert statuses(revoked) == {401}
        own_redis.start()  # empty, and nobody has filled it yet
        eventually(lambda: sum("redis_back" in line for line in running.lines) >= 3)
        assert statuses(revoked) == {401}
        own_redis.remember()  # an identity service that would have lost its record, too
        assert statuses(revoked) == {401}
        assert statuses(other) == {200}
    finally:
        running.stop()


def test_anonymous_requests_do_not_renew_the_grace_of_tokens(door, own_redis):
    auth = bearer(7, sid="1")  # nobody has set the mark: this Redis proves nothing

    def refused() -> bool:
        assert door.ask("/search/x").status == 200
        return bool(door.ask("/api/movies", "POST", Authorization=auth).status == 503)

    eventually(refused)
    assert door.ask("/search/x").status == 200


def test_a_redis_that_hangs_costs_little_and_is_given_up(door, own_redis):
    own_redis.remember()
    own_redis.process.send_signal(signal.SIGSTOP)
    try:
        assert {door.ask("/search/x").status for _ in range(3)} == {200}
        eventually(lambda: any("redis_away" in line for line in door.lines))
    finally:
        own_redis.process.send_signal(signal.SIGCONT)
    eventually(lambda: any("redis_back" in line for line in door.lines))


def test_a_breaker_opens_then_closes_when_the_service_is_back(own_redis):
    port = free_port()
    breaker = "resilience4j.circuitbreaker.configs.default"
    running = Gateway(
        {
            "spring.data.redis.port": own_redis.port,
            "spring.data.redis.host": "127.0.0.1",
            f"{SIMPLE}.movie-service[0].uri": f"http://127.0.0.1:{port}",
            f"{breaker}.waitDurationInOpenState": "500ms",
            f"{breaker}.permittedNumberOfCallsInHalfOpenState": 2,
        },
        workers=1,
    )
    try:
        assert {running.ask("/search/x").status for _ in range(11)} == {503}
        assert any("breaker_changed" in line and "OPEN" in line for line in running.lines)
        server = Upstream(port)
        eventually(lambda: running.ask("/search/x").status == 200)
        assert {running.ask("/search/x").status for _ in range(3)} == {200}
        eventually(lambda: any('"nozie.state":"CLOSED"' in line for line in running.lines))
        server.close()
    finally:
        running.stop()


def test_a_sampled_request_leaves_a_span_by_its_correlation_id(own_redis, upstream, tmp_path):
    zipkin = Upstream()
    running = Gateway(
        {
            "spring.data.redis.port": own_redis.port,
            "spring.data.redis.host": "127.0.0.1",
            f"{SIMPLE}.movie-service[0].uri": f"http://127.0.0.1:{upstream.port}",
            "management.tracing.sampling.probability": 1.0,
            "nozie.server.run-dir": str(tmp_path / "run"),
            "server.address": "127.0.0.1",
            "management.zipkin.tracing.endpoint": f"http://127.0.0.1:{zipkin.port}/spans",
        },
        "-c",
        "python:cloud.server",
        workers=1,
    )
    try:
        trace = running.ask("/search/x").headers["x-correlation-id"].replace("-", "")
        spans = lambda: [s for body in zipkin.bodies for s in orjson.loads(body)]  # noqa: E731
        span: Any = eventually(lambda: next((s for s in spans() if s["traceId"] == trace), None))
        assert (span["kind"], span["name"]) == ("SERVER", "GET movie-service")
        head = upstream.heads[-1].decode()
        assert f"traceparent: 00-{trace}-{span['id']}-01" in head
    finally:
        running.stop()
        zipkin.close()
