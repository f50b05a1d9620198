"""The breaker opens and closes as Resilience4j's does, and never stands in a call's way."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from pybreaker import CircuitBreakerError, CircuitBreakerListener

from cloud.breaker import Breakers, CircuitBreaker, CircuitBreakerSettings, NotPermittedError, State
from cloud.errors import ConfigurationError, UnavailableError
from cloud.testing import properties

RULES = CircuitBreakerSettings(
    window_size=4,
    minimum_calls=4,
    slow_call=timedelta(seconds=1),
    wait=timedelta(seconds=10),
    permitted=2,
)


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


def play(breaker: CircuitBreaker, clock: Clock, outcomes: str) -> str:
    """Make one call per letter: s success, f failure, l slow success, . refused; tell what came."""
    seen = ""
    for outcome in outcomes:
        try:
            permit = breaker.acquire()
        except NotPermittedError:
            seen += "."
            continue
        clock.time += 2 if outcome == "l" else 0
        permit.failed() if outcome == "f" else permit.succeeded()
        seen += outcome
    return seen


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        pytest.param("fff", State.CLOSED, id="no verdict below the minimum"),
        pytest.param("ffss", State.OPEN, id="half failed is enough"),
        pytest.param("fsss", State.CLOSED, id="a quarter is not"),
        pytest.param("fsssfsss", State.CLOSED, id="old failures leave the window"),
        pytest.param("sssfff", State.OPEN, id="successes leave it, too"),
        pytest.param(
            "sfffsf", State.OPEN, id="four of five failures open it, none in a row needed"
        ),
        pytest.param("llll", State.OPEN, id="all slow"),
        pytest.param("llls", State.CLOSED, id="not all slow"),
    ],
)
def test_verdict_over_the_window(clock, outcomes, state):
    breaker = CircuitBreaker("b", RULES, now=clock)
    play(breaker, clock, outcomes)
    assert breaker.state is state


@pytest.mark.parametrize(
    ("probes", "seen", "state"),
    [
        pytest.param("ss", "ss", State.CLOSED, id="good probes close it"),
        pytest.param("ff", "ff", State.OPEN, id="bad ones open it again"),
        pytest.param("sf", "sf", State.OPEN, id="half of them is too many"),
        pytest.param("s", "s", State.HALF_OPEN, id="one of two is no verdict"),
    ],
)
def test_probes_decide(clock, probes, seen, state):
    breaker = CircuitBreaker("b", RULES, now=clock)
    assert play(breaker, clock, "ffffs") == "ffff."
    clock.time += 10
    assert play(breaker, clock, "s") == "."
    clock.time += 0.1
    assert play(breaker, clock, probes) == seen
    assert breaker.state is state


def test_half_open_lets_exactly_the_permitted_probes_through(clock):
    breaker = CircuitBreaker("b", RULES, now=clock)
    play(breaker, clock, "ffff")
    clock.time = 10.1
    first, _second = breaker.acquire(), breaker.acquire()
    with pytest.raises(NotPermittedError):
        breaker.acquire()
    first.released()
    assert breaker.acquire()
    with pytest.raises(NotPermittedError):
        breaker.acquire()


def test_probes_without_a_verdict_end_in_open_when_so_configured(clock):
    rules = CircuitBreakerSettings(
        window_size=1, minimum_calls=1, permitted=1, half_open_wait=timedelta(seconds=5)
    )
    breaker = CircuitBreaker("b", rules, now=clock)
    play(breaker, clock, "f")
    clock.time = 60.1
    breaker.acquire()
    clock.time = 65.1
    with pytest.raises(NotPermittedError):
        breaker.acquire()
    assert breaker.state is State.OPEN


def test_an_outcome_from_before_the_opening_does_not_count_as_a_probe(clock):
    breaker = CircuitBreaker("b", RULES, now=clock)
    late = breaker.acquire()
    play(breaker, clock, "ffff")
    clock.time = 10.1
    assert play(breaker, clock, "s") == "s"
    late.failed()
    assert play(breaker, clock, "s") == "s"
    assert breaker.state is State.CLOSED


def test_window_of_seconds(clock):
    rules = CircuitBreakerSettings(window_type="TIME_BASED", window_size=10, minimum_calls=4)
    breaker = CircuitBreaker("b", rules, now=clock)
    play(breaker, clock, "fff")
    clock.time = 10
    play(breaker, clock, "f")
    assert (breaker.state, breaker.buffered_calls) == (State.CLOSED, 1)
    play(breaker, clock, "fff")
    assert breaker.state is State.OPEN


def test_the_wait_grows_with_every_return_to_open(clock):
    rules = CircuitBreakerSettings(
        window_size=1, minimum_calls=1, permitted=1, wait=timedelta(seconds=10), multiplier=2
    )
    breaker = CircuitBreaker("b", rules, now=clock)
    play(breaker, clock, "f")
    clock.time = 10.1
    assert play(breaker, clock, "f") == "f"
    clock.time = 30
    assert play(breaker, clock, "s") == "."
    clock.time = 30.2
    assert play(breaker, clock, "s") == "s"
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize(
    ("state", "seen"),
    [
        pytest.param(State.FORCED_OPEN, "....", id="forced open refuses for ever"),
        pytest.param(State.DISABLED, "ffff", id="disabled lets all through"),
        pytest.param(State.METRICS_ONLY, "ffff", id="metrics only counts without acting"),
    ],
)
def test_states_set_by_hand_stay(clock, state, seen):
    breaker = CircuitBreaker("b", RULES, now=clock)
    breaker.transition(state)
    clock.time = 1000
    assert play(breaker, clock, "ffff") == seen
    assert breaker.state is state
    assert breaker.fail_counter == (4 if state is State.METRICS_ONLY else 0)


def test_excluded_exceptions_are_neither_success_nor_failure(clock):
    breaker = CircuitBreaker("b", RULES, exclude=[KeyError], now=clock)
    with pytest.raises(KeyError):
        breaker.call(dict[str, str]().__getitem__, "absent")
    assert breaker.buffered_calls == 0


def test_calls_run_side_by_side():
    """Ten calls meet at a barrier inside: a lock around the call would never let them."""
    breaker = CircuitBreaker("b")
    barrier = threading.Barrier(10, timeout=20)
    with ThreadPoolExecutor(10) as threads:
        assert len(list(threads.map(lambda _: breaker.call(barrier.wait), range(10)))) == 10


def test_interface_of_pybreaker(clock):
    class Listener(CircuitBreakerListener):
        def __init__(self) -> None:
            self.heard: list[str] = []

        def success(self, cb):
            self.heard.append("success")
            raise RuntimeError("a listener's fault is not the call's")

        def failure(self, cb, exc):
            self.heard.append(f"failure {exc}")

        def state_change(self, cb, old_state, new_state):
            self.heard.append(f"{cb.name} {new_state.name}")

    listener = Listener()
    breaker = CircuitBreaker("b", RULES, listeners=[listener], now=clock)

    @breaker
    def divide(number: int) -> float:
        return 1 / number

    assert divide(2) == 0.5
    with breaker.calling():
        pass
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            divide(0)
    with pytest.raises(CircuitBreakerError) as refused:
        divide(1)
    assert isinstance(refused.value, UnavailableError)
    assert breaker.current_state == "open"
    assert listener.heard == [
        "success",
        "success",
        "failure division by zero",
        "failure division by zero",
        "b OPEN",
    ]
    breaker.close()
    assert divide(1) == 1


def test_settings_by_instance_then_base_then_default():
    breakers = Breakers(
        properties(
            "identity-service",
            {
                "resilience4j.circuitbreaker.configs.default.sliding-window-size": "10",
                "resilience4j.circuitbreaker.configs.default.failure-rate-threshold": "60",
                "resilience4j.circuitbreaker.configs.slow.failure-rate-threshold": "70",
                "resilience4j.circuitbreaker.configs.slow.waitDurationInOpenState": "5s",
                "resilience4j.circuitbreaker.instances.redis.base-config": "slow",
                "resilience4j.circuitbreaker.instances.redis.wait-duration-in-open-state": "1s",
            },
        )
    )
    redis, other = breakers.get("redis").settings, breakers.get("other").settings
    assert (redis.window_size, redis.failure_rate, redis.wait) == (10, 70, timedelta(seconds=1))
    assert (other.window_size, other.failure_rate, other.wait) == (10, 60, timedelta(seconds=60))
    assert breakers.get("redis") is breakers.get("redis")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("instances.x.sliding-window-type", "CALLS"),
        ("instances.x.failure-rate-threshold", "150"),
        ("instances.x.base-config", "nowhere"),
        ("configs.default.sliding-window-size", "many"),
    ],
)
def test_a_bad_setting_names_its_key(key, value):
    with pytest.raises(ConfigurationError, match=key.rpartition(".")[2]):
        Breakers(properties("x", {f"resilience4j.circuitbreaker.{key}": value})).get("x")
