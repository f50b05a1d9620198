"""The real library's decisions, recorded from it, are ours.

`mvn -q -f tests/cloud/resilience4j compile exec:java` plays the sequences on Resilience4j 2.3.0 and
writes recorded.json anew.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from cloud.actuator.breakers import percent
from cloud.breaker import CircuitBreaker, CircuitBreakerSettings, NotPermittedError, Permit, State
from cloud.testing import properties

RECORDED = json.loads((Path(__file__).parent / "resilience4j" / "recorded.json").read_text())
RAISED = {
    "java.net.ConnectException": ConnectionRefusedError("recorded"),
    "java.lang.IllegalArgumentException": ValueError("recorded"),
    "java.lang.IllegalStateException": RuntimeError("recorded"),
}
LATE = "a late outcome"


class Replay:
    """One recorded sequence on a breaker of ours, set by the same Spring properties."""

    def __init__(self, recorded: dict[str, Any]) -> None:
        self.time_ms = 0
        prefix = "resilience4j.circuitbreaker.instances.it"
        # Recordings are longer than the ring is by default.
        rules = recorded["settings"] | {"event-consumer-buffer-size": "10000"}
        given = {f"{prefix}.{key}": value for key, value in rules.items()}
        settings = CircuitBreakerSettings.of(properties("it", given), "it")
        self.breaker = CircuitBreaker("it", settings, now=lambda: self.time_ms / 1000)
        self.permits: dict[int, Permit] = {}

    def play(self, step: str, number: int, word: str) -> None:
        match step:
            case "begin":
                try:
                    self.permits[number] = self.breaker.acquire()
                except NotPermittedError:
                    assert word == "refused"
                else:
                    assert word == "permitted"
            case "end" if word == "ok":
                self.permits[number].succeeded()
            case "end" if word == "released":
                self.permits[number].released()
            case "end":
                self.permits[number].failed(RAISED[word])
            case "tick":
                self.time_ms += number
            case "place":
                self.breaker.transition(State[word])
            case "reset":
                self.breaker.reset()

    def shown(self) -> list[object]:
        seen = self.breaker.numbers()
        return [
            seen.state.name,
            percent(seen.failure_rate),
            percent(seen.slow_rate),
            *(seen.calls, seen.failed, seen.slow, seen.slow_failed, seen.refused),
        ]

    def events(self) -> list[str]:
        return [f"{e.type} {e.transition}" if e.transition else e.type for e in self.breaker.events]


@pytest.mark.parametrize(
    "recorded", [pytest.param(it, id=it["name"]) for it in RECORDED if it["name"] != LATE]
)
def test_every_step_ends_as_in_resilience4j(recorded):
    replay = Replay(recorded)
    for turn, (step, number, word, *expected) in enumerate(recorded["steps"]):
        replay.play(step, number, word)
        assert replay.shown() == expected, f"step {turn}: {step} {number} {word}"
    assert replay.events() == recorded["events"]


def test_the_recordings_visit_every_state_and_every_turn():
    seen = {step[3] for it in RECORDED for step in it["steps"]}
    assert seen == set(State.__members__)
    kinds = {event.split()[0] for it in RECORDED for event in it["events"]}
    assert kinds >= {"SLOW_CALL_RATE_EXCEEDED", "FAILURE_RATE_EXCEEDED", "IGNORED_ERROR", "RESET"}


def test_an_outcome_from_before_the_opening_is_no_probe_of_ours():
    """The one difference, on purpose: there a call begun earlier decides in place of a probe."""
    (recorded,) = (it for it in RECORDED if it["name"] == LATE)
    assert recorded["steps"][-1][3] == "OPEN"
    replay = Replay(recorded)
    for step, number, word, *_ in recorded["steps"]:
        replay.play(step, number, word)
    assert replay.breaker.state is State.HALF_OPEN
    replay.play("begin", 100, "permitted")
    replay.play("end", 100, "ok")
    assert replay.shown()[0] == "CLOSED"
