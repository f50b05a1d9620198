"""The breaker opens and closes as Resilience4j's does, and never stands in a call's way."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from pybreaker import CircuitBreakerError, CircuitBreakerListener

from cloud.breaker import (
    Breakers,
    CircuitBreaker,
    CircuitBreakerSettings,
    NotPermittedError,
    State,
    follow,
)
from cloud.client import ServiceClient
from cloud.config import Environment
from cloud.errors import ConfigurationError, DeadlineError, UnavailableError, UpstreamError
from cloud.testing import properties
from tests.waiting import eventually

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


def test_a_cautious_one_sends_its_probes_alone_until_one_has_succeeded(clock):
    breaker = CircuitBreaker("b", replace(RULES, permitted=5), now=clock)
    breaker.cautious = True

    def refused() -> bool:
        with pytest.raises(NotPermittedError):
            breaker.acquire()
        return breaker.state is State.HALF_OPEN

    breaker.open()
    clock.time = 11
    first = breaker.acquire()
    assert refused()
    first.released()  # it says nothing
    second = breaker.acquire()
    assert refused()
    second.failed()
    third = breaker.acquire()
    assert refused()
    third.succeeded()
    others = [breaker.acquire() for _ in range(3)]
    assert refused(), "five in all"
    for each in others:
        each.succeeded()
    assert breaker.state is State.CLOSED
    assert [breaker.acquire() for _ in range(2)]


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


ROOT = "resilience4j.circuitbreaker"


def rules(name: str = "it", **given: str) -> CircuitBreakerSettings:
    """Read the settings of `name` from keys below the root, `__` for a dot."""
    values = {f"{ROOT}.{key.replace('__', '.').replace('_', '-')}": given[key] for key in given}
    return CircuitBreakerSettings.of(properties("x", values), name)


def test_settings_by_instance_then_its_bases_then_default():
    given = {
        "configs__default__sliding_window_size": "10",
        "configs__default__failure_rate_threshold": "60",
        "configs__default__minimum_number_of_calls": "7",
        "configs__slow__failureRateThreshold": "70",
        "configs__slow__base_config": "slower",
        "configs__slower__waitDurationInOpenState": "5s",
        "configs__slower__failure_rate_threshold": "80",
        "instances__redis__base_config": "slow",
        "instances__redis__sliding_window_type": "time_based",
        "backends__old__permitted_number_of_calls_in_half_open_state": "3",
    }
    redis, old, other = (rules(name, **given) for name in ("redis", "old", "other"))
    assert (redis.window_size, redis.failure_rate, redis.wait) == (10, 70, timedelta(seconds=5))
    assert redis.window_type == "TIME_BASED"
    assert (old.permitted, old.minimum_calls) == (3, 7)
    assert (other.failure_rate, other.wait) == (60, timedelta(seconds=60))


def test_every_key_of_resilience4j_is_read():
    found = rules(
        instances__it__slow_call_duration_threshold="2s",
        instances__it__slow_call_rate_threshold="80",
        instances__it__max_wait_duration_in_half_open_state="3s",
        instances__it__automatic_transition_from_open_to_half_open_enabled="true",
        instances__it__enable_exponential_backoff="true",
        instances__it__exponential_backoff_multiplier="2",
        instances__it__exponential_max_wait_duration_in_open_state="5m",
        instances__it__initial_state="METRICS_ONLY",
        instances__it__event_consumer_buffer_size="7",
        instances__it__register_health_indicator="true",
        instances__it__allow_health_indicator_to_fail="true",
        instances__it__writable_stack_trace_enabled="false",
    )
    assert found == CircuitBreakerSettings(
        slow_call=timedelta(seconds=2),
        slow_rate=80,
        half_open_wait=timedelta(seconds=3),
        automatic=True,
        multiplier=2,
        longest_wait=timedelta(minutes=5),
        initial=State.METRICS_ONLY,
        events=7,
        in_health=True,
        may_fail_health=True,
    )
    assert CircuitBreaker("it", found).state is State.METRICS_ONLY


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("java.util.concurrent.TimeoutException", DeadlineError("late")),
        ("java.net.SocketTimeoutException", TimeoutError()),
        ("java.io.IOException", ConnectionResetError()),
        ("java.io.IOException", UnavailableError("gone")),
        ("org.springframework.web.client.HttpServerErrorException", UpstreamError("502")),
        ("cloud.errors.UpstreamError", UpstreamError("502")),
        ("ConnectionError", ConnectionRefusedError()),
        ("java.lang.Exception", KeyError("any")),
    ],
)
def test_names_of_exceptions_mean_ours(name, error):
    recording = CircuitBreaker("it", rules(instances__it__record_exceptions=name))
    ignoring = CircuitBreaker("it", rules(**{"instances__it__ignore_exceptions[0]": name}))
    for breaker in (recording, ignoring):
        breaker.acquire().failed(error)
        breaker.acquire().failed(AssertionError() if name != "java.lang.Exception" else error)
    assert recording.fail_counter == (1 if name != "java.lang.Exception" else 2)
    assert ignoring.buffered_calls == (1 if name != "java.lang.Exception" else 0)


def test_a_neighbours_exception_is_left_out_but_not_all_of_them():
    ours, theirs = "java.io.IOException", "com.nozie.payment.BusinessException"
    both = rules(instances__it__record_exceptions=f"{ours}, {theirs}")
    assert both.record == rules(instances__it__record_exceptions=ours).record
    assert rules(instances__it__ignore_exceptions=theirs).ignore == ()
    with pytest.raises(ConfigurationError, match="record-exceptions"):
        rules(instances__it__record_exceptions=theirs)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("instances.x.sliding-window-type", "CALLS"),
        ("instances.x.failure-rate-threshold", "150"),
        ("instances.x.failure-rate-threshold", "0"),
        ("instances.x.base-config", "nowhere"),
        ("instances.x.initial-state", "TIRED"),
        ("instances.x.wait-duration-in-open-state", "0s"),
        ("configs.default.sliding-window-size", "many"),
    ],
)
def test_a_bad_setting_names_its_key(key, value):
    with pytest.raises(ConfigurationError, match=key.rpartition(".")[2]):
        Breakers(properties("x", {f"{ROOT}.{key}": value})).get("x")


def test_backoff_and_randomized_wait_exclude_each_other():
    with pytest.raises(ConfigurationError, match="enable-randomized-wait"):
        rules(
            instances__it__enable_exponential_backoff="true",
            instances__it__enable_randomized_wait="true",
        )


def test_a_randomized_wait_stays_within_its_share(clock):
    settings = CircuitBreakerSettings(window_size=1, minimum_calls=1, randomize=0.5)
    waits = set()
    for _ in range(50):
        breaker = CircuitBreaker("b", settings, now=clock)
        play(breaker, clock, "f")
        waits.add(breaker.wait_left_s())
    assert 30 <= min(waits) < max(waits) <= 90
    assert len(waits) > 10


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        pytest.param({}, None, id="no hidden second"),
        pytest.param({"instances.it.timeout-duration": "2s"}, 2, id="its own"),
        pytest.param({"configs.default.timeoutDuration": "3s"}, 3, id="that of all"),
        pytest.param(
            {"instances.it.base-config": "slow", "configs.slow.timeout-duration": "4s"},
            4,
            id="its base's",
        ),
    ],
)
def test_time_limits_of_spring_cloud(given, seconds):
    values = {f"resilience4j.timelimiter.{key}": value for key, value in given.items()}
    assert Breakers(properties("x", values)).get("it").time_limit_s == seconds
    off = {"spring.cloud.circuitbreaker.resilience4j.disable-time-limiter": "true"}
    assert Breakers(properties("x", values | off)).get("it").time_limit_s is None
    off = {"spring.cloud.circuitbreaker.resilience4j.disable-time-limiter-map.it": "true"}
    assert Breakers(properties("x", values | off)).get("it").time_limit_s is None


def test_a_name_is_one_breaker_whoever_asks():
    found = properties("x", {})
    assert Breakers(found).get("it") is Breakers(found).get("it")
    assert Breakers(found).get("it") is not Breakers(properties("x", {})).get("it")


def test_a_refresh_changes_rules_and_keeps_states():
    least = f"{ROOT}.instances.it.minimum-number-of-calls"
    environment = Environment(properties("x", {least: "2"}))
    follow(environment)
    breaker = Breakers(environment.properties).get("it")
    breaker.transition(State.FORCED_OPEN)
    environment.replace(properties("x", {least: "3"}))
    assert (breaker.settings.minimum_calls, breaker.state) == (3, State.FORCED_OPEN)
    for _ in range(2):
        assert Breakers(environment.properties).get("it") is breaker
        environment.replace(properties("x", {least: "3"}))  # nothing has changed but the object
    with pytest.raises(ConfigurationError, match="minimum-number-of-calls"):
        environment.ensure(properties("x", {least: "none"}))


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("instances.unmade.sliding-window-size", "none", "is not a whole number"),
        ("instances.unmade.base-config", "nowhere", "is no config that there is"),
        ("configs.unused.wait-duration-in-open-state", "0s", "is too short"),
        ("configs.default.slidingWindowType", "CALLS", "is none of COUNT_BASED, TIME_BASED"),
        ("instances.unmade.failure-rate-threshold", "150", "is above 100"),
    ],
)
def test_a_rule_that_nobody_has_needed_yet_stops_start_and_refresh(key, value, text):
    key = f"{ROOT}.{key}"
    bad = properties("x", {key: value})
    with pytest.raises(ConfigurationError) as refused:
        follow(Environment(bad))
    told = str(refused.value)
    assert told.startswith(f"x: {ROOT}.")
    assert text in told
    assert told.endswith(" (from test)")
    environment = Environment(properties("x", {}))
    follow(environment)
    with pytest.raises(ConfigurationError, match=text):
        environment.ensure(bad)


def test_a_neighbours_breaker_with_exceptions_of_its_own_is_none_of_our_business():
    key = f"{ROOT}.instances.theirs.record-exceptions"
    follow(Environment(properties("x", {key: "com.nozie.payment.BusinessException"})))


def test_what_ends_by_the_clock_ends_without_a_call():
    """Open, half-open, and open again, as whoever only listens hears it."""
    heard: list[str] = []
    over = threading.Event()

    class Ear(CircuitBreakerListener):
        def state_change(self, _breaker, before, after):
            heard.append(f"{before.name} to {after.name}")
            if len(heard) == 3:
                over.set()

    settings = CircuitBreakerSettings(
        window_size=1,
        minimum_calls=1,
        wait=timedelta(milliseconds=50),
        half_open_wait=timedelta(milliseconds=20),
        automatic=True,
    )
    breaker = CircuitBreaker("b", settings, listeners=[Ear()])
    breaker.acquire().failed()
    assert over.wait(10)
    assert heard[:3] == ["CLOSED to OPEN", "OPEN to HALF_OPEN", "HALF_OPEN to OPEN"]
    breaker.govern(CircuitBreakerSettings())
    breaker.close()


def test_a_wait_that_a_refresh_makes_automatic_ends_by_itself():
    wait = timedelta(milliseconds=50)
    settings = CircuitBreakerSettings(window_size=1, minimum_calls=1, wait=wait)
    breaker, over = CircuitBreaker("b", settings), threading.Event()
    breaker.acquire().failed()

    class Ear(CircuitBreakerListener):
        def state_change(self, _breaker, _before, after):
            assert after is State.HALF_OPEN
            over.set()

    breaker.add_listener(Ear())
    breaker.govern(replace(settings, automatic=True))
    assert over.wait(10)


def timers(name: str) -> list[threading.Timer]:
    """Return what ends a state of the breaker `name`, of all threads of this process."""
    found = [each for each in threading.enumerate() if each.name == f"breaker {name}"]
    return [each for each in found if isinstance(each, threading.Timer)]


def test_one_that_begins_open_waits_by_the_clock_of_the_process_that_has_it():
    """Made before a fork it rests, since a thread would not come along; `wake` is for after it."""
    instance = "resilience4j.circuitbreaker.instances.asleep"
    given = {
        f"{instance}.initial-state": "OPEN",
        f"{instance}.wait-duration-in-open-state": "50ms",
        f"{instance}.automatic-transition-from-open-to-half-open-enabled": "true",
    }
    breakers = follow(Environment(properties("x", given)))
    breaker, over = breakers.get("asleep"), threading.Event()
    assert not timers("asleep")

    class Ear(CircuitBreakerListener):
        def state_change(self, _breaker, _before, after):
            assert after is State.HALF_OPEN
            over.set()

    breaker.add_listener(Ear())
    breakers.wake()
    assert over.wait(10)
    eventually(lambda: not timers("asleep"))
    given[f"{instance}.wait-duration-in-open-state"] = "1h"
    Breakers(properties("x", given)).get("asleep")
    assert len(timers("asleep")) == 1


def test_a_call_of_a_service_keeps_its_breakers_time_limit():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        simple = "spring.cloud.discovery.client.simple.instances.movie-service[0].uri"
        given = {
            simple: f"http://127.0.0.1:{silent.getsockname()[1]}",
            "resilience4j.timelimiter.instances.movie-service.timeout-duration": "50ms",
        }
        environment = Environment(properties("x", given))
        client = ServiceClient("movie-service", environment, timeout=timedelta(hours=1))
        with pytest.raises(DeadlineError):
            client.get("/")
    assert Breakers(environment.properties).get("movie-service").fail_counter == 1
