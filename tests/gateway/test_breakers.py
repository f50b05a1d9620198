"""What an operator does to a breaker of a running gateway."""

import json

import pytest

from tests.gateway.conftest import Gateway, bearer, settings

SIMPLE = "spring.cloud.discovery.client.simple.instances"
BREAKER = "movieServiceCircuitBreaker"
PATH = f"/actuator/circuitbreakers/{BREAKER}"


@pytest.fixture
def served(upstream, store):
    running = Gateway(
        {
            **settings(store),
            "management.endpoint.circuitbreakers.access": "unrestricted",
            "management.endpoints.web.exposure.include": "*",
            f"{SIMPLE}.movie-service[0].uri": f"http://127.0.0.1:{upstream.port}",
        },
        *("-c", "python:cloud.server"),
    )
    yield running
    running.stop()


def put(served: Gateway, update: str) -> int:
    body = json.dumps({"updateState": update}).encode()
    return served.ask(PATH, "POST", body, Content_Type="application/json").status


def movies(served: Gateway) -> set[int]:
    """Ask over so many connections that both workers are met."""
    auth = bearer(1, "ADMIN", sid="1")
    return {served.ask("/api/movies", "POST", b"{}", Authorization=auth).status for _ in range(12)}


def page(served: Gateway) -> str:
    answer = served.ask("/ops", Cookie=f"nozie-ops={bearer(1, 'ADMIN')[7:]}")
    assert answer.status == 200
    return answer.body.decode()


def test_a_breaker_is_forced_open_in_all_workers_and_closed_again(served):
    assert movies(served) == {200}
    assert put(served, "FORCE_OPEN") == 200
    assert movies(served) == {503}
    assert "forced open, by an operator" in page(served)
    text = served.ask("/actuator/prometheus").body.decode()
    labels = f'group="none",kind="not_permitted",name="{BREAKER}"'
    assert f"resilience4j_circuitbreaker_not_permitted_calls_total{{{labels}}} 12.0" in text
    assert put(served, "CLOSE") == 200
    assert movies(served) == {200}
    assert "by an operator" not in page(served)
