"""Breakers of several processes and instances that are one through a real Redis."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from urllib.parse import urlsplit

import pytest
import redis

from cloud.breaker import CircuitBreaker, CircuitBreakerSettings, NotPermittedError, Permit, State
from cloud.breaker.shared import Shared, runner
from cloud.errors import UnavailableError
from tests.cloud.house import BreakerHouse
from tests.waiting import eventually
from tests.wire import Wire

DEFAULT = "resilience4j.circuitbreaker.configs.default"
RULES = CircuitBreakerSettings(
    window_size=4, minimum_calls=4, permitted=3, wait=timedelta(milliseconds=200)
)


class Process:
    """What one process has: a breaker of the name, and its side of the sharing."""

    def __init__(self, url: str, rules: CircuitBreakerSettings = RULES) -> None:
        self.breaker = CircuitBreaker("callee", rules)
        self.client = redis.Redis.from_url(url, decode_responses=True, socket_timeout=2)
        run = runner(self.client, redis.RedisError, redis.exceptions.NoScriptError)
        self.shared = self.breaker.sharing = Shared("house", [self.breaker], run)

    def turn(self) -> State:
        """Do what the thread does every quarter of a second."""
        try:
            self.shared.turn()
        except UnavailableError:
            self.shared._lost("away")  # noqa: SLF001 - as its thread does
        return self.breaker.state

    def fail(self, times: int = 4) -> None:
        for _ in range(times):
            self.breaker.acquire().failed()

    def probes(self, most: int = 20) -> list[Permit]:
        """Ask for leave to call again and again, as traffic does."""
        found = []
        for _ in range(most):
            try:
                found.append(self.breaker.acquire())
            except NotPermittedError:
                continue
        return found


def _is_due(breaker: CircuitBreaker) -> bool:
    return breaker.wait_left_s() == 0


@pytest.fixture
def process(redis_url) -> Iterator[Callable[..., Process]]:
    made: list[Process] = []

    def start(url: str = redis_url, rules: CircuitBreakerSettings = RULES) -> Process:
        made.append(Process(url, rules))
        return made[-1]

    yield start
    for one in made:
        one.client.close()


def due(*processes: Process) -> None:
    """Wait until probes are due."""
    for one in processes:
        eventually(partial(_is_due, one.breaker))


def test_who_opens_opens_for_all(process):
    one, two = process(), process()
    assert (one.turn(), two.turn()) == (State.CLOSED, State.CLOSED)
    one.fail()
    assert (one.turn(), two.turn()) == (State.OPEN, State.OPEN)
    with pytest.raises(NotPermittedError):
        two.breaker.acquire()
    newcomer = process()
    assert newcomer.turn() is State.OPEN


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [("sss", State.CLOSED), ("ssf", State.CLOSED), ("sff", State.OPEN)],
    ids=["all good", "a third failed", "two thirds failed"],
)
def test_exactly_the_permitted_probes_go_out_in_all_and_decide_for_all(process, outcomes, state):
    three = [process() for _ in range(3)]
    for one in three:
        one.turn()
    three[0].fail()
    for one in three:
        one.turn()
    due(*three)
    permits: list[Permit] = []
    for _ in range(4):
        for one in three:
            permits += one.probes()
            one.turn()
    assert len(permits) == 3
    assert {one.turn() for one in three} == {State.HALF_OPEN}
    for permit, outcome in zip(permits, outcomes, strict=True):
        permit.failed() if outcome == "f" else permit.succeeded()
    for one in three:
        one.turn()
    assert {one.turn() for one in three} == {state}


def test_a_permit_that_comes_back_is_anothers(process):
    """Returned at once by a call that was not made, or after a while by one that never came."""
    rules = CircuitBreakerSettings(window_size=1, minimum_calls=1, permitted=1, wait=RULES.wait)
    one, two = process(rules=rules), process(rules=rules)
    one.fail(1)
    one.turn(), two.turn()
    due(one, two)
    one.probes(1), one.turn()
    (permit,) = one.probes()
    permit.released()

    def gets_one():
        got = two.probes(1)
        one.turn(), two.turn()
        return got

    eventually(gets_one)


def test_a_permit_waits_for_a_rare_caller(process):
    """Nobody else wants it: the next call of this process is the probe, however late."""
    one, two = process(), process()
    one.fail()
    one.turn(), two.turn()
    due(one)
    assert not one.probes(1)
    one.turn()
    one.shared._granted_at["callee"] -= 3600  # noqa: SLF001 - an hour later
    one.turn(), two.turn()
    assert len(one.probes(1)) == 1


def test_probes_whose_holder_died_are_replaced_when_their_lease_is_over(process):
    rules = CircuitBreakerSettings(
        window_size=1, minimum_calls=1, permitted=1, wait=RULES.wait, slow_call=RULES.wait
    )
    one, two = process(rules=rules), process(rules=rules)
    one.fail(1)
    one.turn(), two.turn()
    due(one, two)

    def asks(process):
        got = process.probes(1)
        process.turn()
        return got

    (lost,) = eventually(lambda: asks(one))
    (probe,) = eventually(lambda: asks(two))
    lost.failed()  # it lived after all, but says nothing about this turn
    one.turn()
    assert two.turn() is State.HALF_OPEN
    probe.succeeded()
    assert (two.turn(), one.turn()) == (State.CLOSED, State.CLOSED)


def test_an_operators_word_holds_for_all_until_it_is_taken_back(process):
    one, two = process(), process()
    one.turn(), two.turn()
    one.breaker.transition(State.FORCED_OPEN)
    assert (one.turn(), two.turn()) == (State.FORCED_OPEN, State.FORCED_OPEN)
    assert one.client.ttl("nozie:circuitbreaker:house:callee") == -1
    late = process()
    assert late.turn() is State.FORCED_OPEN
    two.breaker.transition(State.CLOSED)
    assert [each.turn() for each in (two, one, late)] == [State.CLOSED] * 3


@pytest.fixture
def door(server) -> Iterator[Wire]:
    with Wire(server("NOZIE_TEST_REDIS", "redis")) as door:
        yield door


def test_without_redis_each_decides_alone_and_nobody_waits(process, door, redis_url):
    url = f"redis://127.0.0.1:{door.port}{urlsplit(redis_url).path}"
    one, two = process(url), process(url)
    assert (one.turn(), two.turn()) == (State.CLOSED, State.CLOSED)
    door.cut()
    assert (one.turn(), two.turn()) == (State.CLOSED, State.CLOSED)
    one.fail()
    assert (one.turn(), two.turn()) == (State.OPEN, State.CLOSED)
    due(one)
    eventually(lambda: len(one.probes()) == 3)
    two.breaker.transition(State.FORCED_OPEN)
    door.mend()
    eventually(lambda: two.turn() is State.FORCED_OPEN and two.shared.online)
    assert one.turn() is State.FORCED_OPEN


def test_no_call_waits_for_redis():
    """Redis hangs in the middle of an answer; calls are made, judged and refused all the same."""
    asked, go_on = threading.Event(), threading.Event()

    def hangs(_: object) -> list[object]:
        asked.set()
        go_on.wait(20)
        raise UnavailableError("Redis is away")

    breaker = CircuitBreaker("callee", RULES)
    shared = breaker.sharing = Shared("house", [breaker], hangs)
    shared.online = True
    shared.start()
    assert asked.wait(20)
    for _ in range(4):
        breaker.acquire().failed()
    with pytest.raises(NotPermittedError):
        breaker.acquire()
    assert (breaker.state, go_on.is_set()) == (State.OPEN, False)
    go_on.set()
    eventually(lambda: not shared.online)


def test_a_redis_that_lost_everything_is_told_again(process):
    one, two = process(), process()
    one.fail()
    one.turn(), two.turn()
    one.client.flushdb()
    for _ in range(2):
        one.turn(), two.turn()
    assert process().turn() is State.OPEN


def _all_are(one: BreakerHouse, state: str) -> bool:
    return set(one.states().values()) == {state}


def _said_by_both(one: BreakerHouse) -> bool:
    return len(one.said("breakers_not_shared")) >= 2


def test_calls_of_two_instances_meet_one_breaker(begin, door, redis_url):
    """Two real instances of two workers each, over a door to the real Redis that shuts."""
    url = f"redis://127.0.0.1:{door.port}{urlsplit(redis_url).path}"
    given = {
        "nozie.circuitbreaker.shared.enabled": True,
        "nozie.circuitbreaker.shared.interval": "50ms",
        "spring.data.redis.url": url,
        f"{DEFAULT}.wait-duration-in-open-state": "1s",
        # The second round of probes is far away, however slow the machine.
        f"{DEFAULT}.enable-exponential-backoff": True,
        f"{DEFAULT}.exponential-backoff-multiplier": 300,
    }
    both = [begin(BreakerHouse, given) for _ in range(2)]
    for one in both:
        eventually(partial(one.answers, "/actuator/health"))
        assert set(one.states().values()) == {"CLOSED"}
    both[0].call(4, "fail")
    for one in both:
        eventually(partial(_all_are, one, "OPEN"))
    permitted: list[int] = []
    gate = threading.Event()

    def traffic(one: BreakerHouse) -> None:
        # Calls that fail, so that the first probes' verdict is to open again.
        while not gate.is_set():
            permitted.append(one.call(1, "fail")["permitted"])

    with ThreadPoolExecutor(4) as pool:
        for one in both * 2:
            pool.submit(traffic, one)
        try:
            eventually(lambda: sum(permitted) >= 3)
            eventually(partial(_all_are, both[1], "OPEN"))
        finally:
            gate.set()
    assert sum(permitted) == 3, "as many probes as configured, in four processes"

    door.cut()
    for one in both:
        eventually(partial(_said_by_both, one))
    both[0].update("CLOSE")
    assert set(both[0].states().values()) == {"CLOSED"}
    door.mend()
    eventually(partial(_all_are, both[1], "CLOSED"))
    for one in both:
        assert len(one.said("breakers_not_shared")) == 2, "one line a process, however long"


def test_while_redis_is_away_probes_count_however_long_they_take():
    """Longer than from one try to reach it to the next."""
    process = Process("redis://127.0.0.1:1/0")
    process.turn()
    process.fail()
    eventually(lambda: _is_due(process.breaker))
    slow = process.probes()
    assert len(slow) == RULES.permitted
    assert [process.turn() for _ in range(3)] == [State.HALF_OPEN] * 3
    for probe in slow:
        probe.succeeded()
    assert process.turn() is State.CLOSED
