"""What an operator sees of an instance's breakers, and what he does to them."""

import os
import signal
from typing import Any

import pytest
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families

from cloud import actuator, web
from cloud.breaker import Breakers
from cloud.config import Environment
from cloud.errors import UnavailableError
from cloud.testing import properties
from tests.cloud.house import BreakerHouse
from tests.waiting import eventually

INSIDE = {"REMOTE_ADDR": "10.1.2.3"}
PREFIX = "resilience4j.circuitbreaker.instances.callee"
SETTINGS = {
    "management.endpoint.circuitbreakers.access": "unrestricted",
    "management.endpoints.web.exposure.include": "*",
    "management.health.circuitbreakers.enabled": "true",
    f"{PREFIX}.sliding-window-size": "3",
    f"{PREFIX}.minimum-number-of-calls": "3",
    f"{PREFIX}.register-health-indicator": "true",
}


@pytest.fixture
def environment() -> Environment:
    return Environment(properties("breakers", SETTINGS))


@pytest.fixture
def client(environment):
    app = Flask("breakers")
    web.install(app, environment)
    actuator.install(app, environment, checks={}, essential=())
    return app.test_client()


@pytest.fixture
def callee(environment):
    return Breakers(environment.properties).get("callee")


def read(client, path: str) -> Any:
    answer = client.get(f"/actuator{path}", environ_base=INSIDE)
    assert answer.status_code == 200, answer.text
    return answer.get_json()


def fail(callee, error: Exception | None = None) -> None:
    callee.acquire().failed(error)


def test_breakers_in_resilience4js_shape(client, callee):
    fail(callee)
    callee.acquire().succeeded()
    callee.acquire().succeeded()
    assert read(client, "/circuitbreakers") == {
        "circuitBreakers": {
            "callee": {
                "failureRate": "33.333332%",
                "slowCallRate": "0.0%",
                "failureRateThreshold": "50.0%",
                "slowCallRateThreshold": "100.0%",
                "bufferedCalls": 3,
                "failedCalls": 1,
                "slowCalls": 0,
                "slowFailedCalls": 0,
                "notPermittedCalls": 0,
                "state": "CLOSED",
            }
        }
    }


def test_events_in_resilience4js_shape_and_by_name_and_type(client, callee, environment):
    Breakers(environment.properties).get("other").acquire().succeeded()
    fail(callee, UnavailableError("callee does not answer"))
    fail(callee, ValueError("redis://:secret@host"))
    fail(callee)
    with pytest.raises(UnavailableError):
        callee.acquire()
    events = read(client, "/circuitbreakerevents/callee")["circuitBreakerEvents"]
    assert [event["type"] for event in events] == [
        *("ERROR", "ERROR", "ERROR", "FAILURE_RATE_EXCEEDED", "STATE_TRANSITION", "NOT_PERMITTED")
    ]
    first, second = events[:2]
    assert first.pop("creationTime").endswith("Z[Etc/UTC]")
    assert first == {
        "circuitBreakerName": "callee",
        "type": "ERROR",
        "errorMessage": "cloud.errors.UnavailableError: callee does not answer",
        "durationInMs": 0,
        "stateTransition": None,
    }
    assert second["errorMessage"] == "builtins.ValueError", "a driver's text may hold a password"
    (turn,) = read(client, "/circuitbreakerevents/callee/state_transition")["circuitBreakerEvents"]
    assert (turn["stateTransition"], turn["errorMessage"]) == ("CLOSED_TO_OPEN", None)
    every = read(client, "/circuitbreakerevents")["circuitBreakerEvents"]
    assert {event["circuitBreakerName"] for event in every} == {"callee", "other"}
    assert read(client, "/circuitbreakerevents/unknown") == {"circuitBreakerEvents": []}
    answer = client.get("/actuator/circuitbreakerevents/callee/TIRED", environ_base=INSIDE)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("update", "state"),
    [("FORCE_OPEN", "FORCED_OPEN"), ("DISABLE", "DISABLED"), ("CLOSE", "CLOSED")],
)
def test_an_operator_sets_a_state(client, callee, update, state):
    path = "/actuator/circuitbreakers/callee"
    answer = client.post(path, json={"updateState": update}, environ_base=INSIDE)
    assert answer.get_json() == {
        "circuitBreakerName": "callee",
        "currentState": state,
        "message": "callee state has been changed successfully",
    }
    assert callee.state.name == state


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [
        pytest.param("callee", {"updateState": "OPEN"}, 400, id="no such update"),
        pytest.param("callee", {"updateState": ["CLOSE"]}, 400, id="no text"),
        pytest.param("callee", ["CLOSE"], 400, id="no object"),
        pytest.param("nobody", {"updateState": "CLOSE"}, 404, id="no such breaker"),
    ],
)
def test_what_cannot_be_set_changes_nothing(client, callee, name, body, status):
    path = f"/actuator/circuitbreakers/{name}"
    assert client.post(path, json=body, environ_base=INSIDE).status_code == status
    known = read(client, "/circuitbreakers")["circuitBreakers"]
    assert {name: one["state"] for name, one in known.items()} == {"callee": "CLOSED"}


@pytest.mark.parametrize(
    ("may_fail", "status", "whole"),
    [("false", "CIRCUIT_OPEN", "UNKNOWN"), ("true", "DOWN", "DOWN")],
    ids=["only told", "may fail the instance"],
)
def test_health_as_resilience4j_tells_it(may_fail, status, whole):
    given = SETTINGS | {f"{PREFIX}.allow-health-indicator-to-fail": may_fail}
    environment = Environment(properties("breakers", given))
    breakers = Breakers(environment.properties)
    breakers.get("unseen")
    for _ in range(3):
        fail(breakers.get("callee"))
    app = Flask("breakers")
    web.install(app, environment)
    actuator.install(app, environment, checks={}, essential=())
    answer = app.test_client().get("/actuator/health/circuitBreakers", environ_base=INSIDE)
    assert answer.get_json() == {
        "status": whole,
        "details": {
            "callee": {
                "status": status,
                "details": {
                    "failureRate": "100.0%",
                    "failureRateThreshold": "50.0%",
                    "slowCallRate": "0.0%",
                    "slowCallRateThreshold": "100.0%",
                    "bufferedCalls": 3,
                    "slowCalls": 0,
                    "slowFailedCalls": 0,
                    "failedCalls": 3,
                    "notPermittedCalls": 0,
                    "state": "OPEN",
                },
            }
        },
    }


def samples(house: BreakerHouse) -> dict[tuple[str, str], float]:
    """Read what Prometheus would: by name and the labels beside `name` and `group`."""
    text = house.get("/actuator/prometheus").text
    return {
        (sample.name, ",".join(v for k, v in sample.labels.items() if k in ("kind", "state"))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("resilience4j") and sample.labels["name"] == "callee"
    }


def test_an_instance_is_one_to_its_operator(begin):
    """Numbers of all workers added up; a forced state in all of them, replaced ones included."""
    served = begin(BreakerHouse, {})
    eventually(lambda: served.answers("/actuator/health"))
    pids = set(served.states())
    by_pid = dict.fromkeys(pids, 0)
    while min(by_pid.values()) == 0:
        by_pid[served.call()["pid"]] += 1
    calls = sum(by_pid.values())
    assert served.shown()["bufferedCalls"] == sum(min(4, n) for n in by_pid.values())
    seen = samples(served)
    prefix = "resilience4j_circuitbreaker"
    assert seen[f"{prefix}_calls_seconds_count", "successful"] == calls
    assert seen[f"{prefix}_state", "closed"] == 1
    assert seen[f"{prefix}_buffered_calls", "failed"] == 0

    assert served.update("FORCE_OPEN") == 200
    assert set(served.states().values()) == {"FORCED_OPEN"}
    assert served.call(2)["permitted"] == 0
    seen = samples(served)
    assert seen[f"{prefix}_not_permitted_calls_total", "not_permitted"] == 2
    assert (seen[f"{prefix}_state", "forced_open"], seen[f"{prefix}_state", "closed"]) == (1, 0)

    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: _new_workers_say(served, pids, "FORCED_OPEN"))
    assert samples(served)[f"{prefix}_calls_seconds_count", "successful"] == calls

    assert served.update("CLOSE") == 200
    assert set(served.states().values()) == {"CLOSED"}
    assert served.call()["permitted"] == 1


def _new_workers_say(served: BreakerHouse, old: set[int], state: str) -> bool:
    found = {pid: said for pid, said in served.states().items() if pid not in old}
    assert set(found.values()) <= {state}, "a worker that is new must not serve without knowing"
    return len(found) >= 2
