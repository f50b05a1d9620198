"""The balancer goes round, past instances that just failed, and never leaves a service empty."""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import REGISTRY

from cloud.balancer import Balancer, Header, check
from cloud.config import Environment, Properties, PropertySource, PropertyValue
from cloud.errors import ConfigurationError, UnavailableError
from cloud.eureka import Instance
from cloud.testing import properties
from tests.serving import Handler, Serving
from tests.waiting import eventually

SPRING = "spring.cloud.loadbalancer"


class Registry:
    """A view that lists what a test puts in."""

    def __init__(self, *names: str) -> None:
        self.listed = tuple(instance(name) for name in names)

    def instances(self, service_id: str) -> tuple[Instance, ...]:
        return self.listed if service_id == "s" else ()


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def instance(name: str, startup: str = "1", port: int = 1, **metadata: str) -> Instance:
    return Instance(name, "S", ("s",), "127.0.0.1", port, metadata={"startup": startup, **metadata})


def balancer_of(*instances: Instance, **settings: str) -> Balancer:
    """Balance with settings below Spring's prefix, `_` for a dot in their names."""
    registry = Registry()
    registry.listed = instances
    values = {f"{SPRING}.{key.replace('_', '.')}": value for key, value in settings.items()}
    return Balancer(registry, Environment(properties("x", values)))


def order(balancer: Balancer, times: int, header: Header | None = None) -> str:
    return "".join(balancer.choose("s", header=header).instance_id for _ in range(times))


def asking(**headers: str) -> Header:
    return {name.replace("_", "-"): value for name, value in headers.items()}.get


def counted(name: str, **labels: str) -> float:
    where = {
        "serviceId": "s",
        "serviceInstance_instanceId": "a",
        "serviceInstance_host": "127.0.0.1",
        "serviceInstance_port": "1",
    }
    return REGISTRY.get_sample_value(f"loadbalancer_requests_{name}", where | labels) or 0.0


def chosen(balancer: Balancer, times: int) -> list[str]:
    return sorted(balancer.choose("s").instance_id for _ in range(times))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_every_instance_gets_its_turn(clock):
    assert chosen(Balancer(Registry("a", "b", "c"), now=clock), 6) == ["a", "a", "b", "b", "c", "c"]


def test_nobody_there(clock):
    with pytest.raises(UnavailableError, match="other has no instance"):
        Balancer(Registry("a"), now=clock).choose("other")


def test_tried_instances_are_passed_over_until_none_is_left(clock):
    balancer = Balancer(Registry("a", "b"), now=clock)
    first = balancer.choose("s")
    second = balancer.choose("s", exclude=[first])
    assert {first.instance_id, second.instance_id} == {"a", "b"}
    with pytest.raises(UnavailableError):
        balancer.choose("s", exclude=[first, second])


@pytest.mark.parametrize(
    ("failures", "refused", "seen"),
    [
        pytest.param(1, True, ["b", "b"], id="a refused connection ejects at once"),
        pytest.param(2, False, ["a", "b"], id="two failures do not"),
        pytest.param(3, False, ["b", "b"], id="three do"),
    ],
)
def test_ejection(clock, failures, refused, seen):
    balancer = Balancer(Registry("a", "b"), now=clock)
    for _ in range(failures):
        balancer.failed(instance("a"), refused=refused)
    assert chosen(balancer, 2) == seen


def test_failures_count_in_a_row_only(clock):
    balancer = Balancer(Registry("a", "b"), now=clock)
    for _ in range(5):
        balancer.failed(instance("a"))
        balancer.failed(instance("a"))
        balancer.succeeded(instance("a"))
    assert chosen(balancer, 2) == ["a", "b"]


def test_one_probe_after_the_ejection_then_a_longer_one(clock):
    balancer = Balancer(Registry("a", "b"), now=clock)
    balancer.failed(instance("a"), refused=True)
    clock.time += 10
    assert chosen(balancer, 4) == ["a", "b", "b", "b"]
    balancer.failed(instance("a"), refused=True)
    clock.time += 19
    assert chosen(balancer, 4) == ["b"] * 4
    clock.time += 1
    assert chosen(balancer, 4) == ["a", "b", "b", "b"]
    balancer.succeeded(instance("a"))
    assert chosen(balancer, 4) == ["a", "a", "b", "b"]


def test_a_probe_nobody_reports_on_does_not_lock_the_instance_out(clock):
    balancer = Balancer(Registry("a", "b"), now=clock)
    balancer.failed(instance("a"), refused=True)
    clock.time += 10
    assert "a" in chosen(balancer, 2)
    clock.time += 2
    assert "a" in chosen(balancer, 2)


def test_the_last_instance_is_never_left_out(clock):
    balancer = Balancer(Registry("a", "b"), now=clock)
    for name in "ab":
        balancer.failed(instance(name), refused=True)
    assert chosen(balancer, 2) == ["a", "b"]


def test_a_restarted_instance_begins_anew(clock):
    registry = Registry("a", "b")
    balancer = Balancer(registry, now=clock)
    balancer.failed(instance("a"), refused=True)
    registry.listed = (instance("a", startup="2"), instance("b"))
    assert chosen(balancer, 2) == ["a", "b"]


@pytest.mark.parametrize(
    ("weights", "times", "expected"),
    [
        pytest.param({"a": "3", "b": "1"}, 4, "abaa", id="in turns, then who has turns left"),
        pytest.param({"a": "30", "b": "10", "c": "20"}, 6, "abcaca", id="by what divides all"),
        pytest.param({"a": "x", "b": "-2", "c": "0"}, 6, "abcabc", id="no weight is one"),
    ],
)
def test_weighted(weights, times, expected):
    those = [instance(name, weight=weight) for name, weight in weights.items()]
    balancer = balancer_of(*those, configurations="weighted")
    found = order(balancer, times)
    assert found in {expected[turn:] + expected[:turn] for turn in range(times)}


def test_weights_out_of_proportion_make_no_endless_ring():
    balancer = balancer_of(
        instance("a", weight="1000003"), instance("b", weight="1"), configurations="weighted"
    )
    found = Counter(order(balancer, 2002))
    assert found["b"] == 2


def test_random_reaches_all_and_in_no_order():
    random.seed(3)
    balancer = balancer_of(*map(instance, "abc"), configurations="random")
    found = order(balancer, 300)
    assert min(Counter(found).values()) > 60
    assert len(set(re.findall("..", found))) == 9


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        pytest.param("EAST", "b", id="those of the zone, whatever its case"),
        pytest.param("north", "abc", id="nobody there: all"),
        pytest.param("", "abc", id="no zone of our own: all"),
    ],
)
def test_zone(zone, expected):
    those = instance("a", zone="west"), instance("b", zone="east"), instance("c")
    balancer = balancer_of(*those, configurations="zone-preference", zone=zone)
    assert set(order(balancer, 9)) == set(expected)


def test_beyond_the_zone_when_nobody_in_it_answers():
    near, far = instance("a", zone="east"), instance("b", zone="west")
    balancer = balancer_of(near, far, configurations="zone-preference", zone="east")
    assert balancer.choose("s", exclude=[near]) == far
    balancer.failed(near, refused=True)
    assert order(balancer, 3) == "bbb"


@pytest.mark.parametrize(
    ("header", "settings", "expected"),
    [
        pytest.param(asking(x_sc_lb_hint="canary"), {}, "b", id="by header"),
        pytest.param(asking(x_sc_lb_hint="none"), {}, "abc", id="nobody has it: all"),
        pytest.param(asking(), {}, "abc", id="none asked for"),
        pytest.param(None, {"hint_s": "canary"}, "b", id="by the service's property"),
        pytest.param(None, {"hint_default": "blue"}, "c", id="by the property for all"),
        pytest.param(
            asking(x_sc_lb_hint="blue"), {"hint_s": "canary"}, "c", id="the header comes first"
        ),
        pytest.param(
            asking(x_flavour="blue"), {"hint-header-name": "X-Flavour"}, "c", id="another header"
        ),
    ],
)
def test_hint(header, settings, expected):
    those = instance("a"), instance("b", hint="canary"), instance("c", hint="blue")
    assert set(order(balancer_of(*those, **settings), 9, header)) == set(expected)


@pytest.mark.parametrize(
    ("cookie", "expected"),
    [
        pytest.param("x=1; sc-lb-instance-id=b; y=2", "bbb", id="who was called before"),
        pytest.param('sc-lb-instance-id="b"', "bbb", id="quoted"),
        pytest.param("sc-lb-instance-id=gone", None, id="who is gone"),
        pytest.param("other-sc-lb-instance-id=b", None, id="another cookie"),
        pytest.param("", None, id="no cookie"),
    ],
)
def test_sticky(cookie, expected):
    balancer = balancer_of(*map(instance, "abc"), configurations="request-based-sticky-session")
    found = order(balancer, 3, asking(cookie=cookie))
    assert found == expected or (expected is None and set(found) == set("abc"))


def test_who_failed_keeps_no_session():
    balancer = balancer_of(*map(instance, "ab"), configurations="request-based-sticky-session")
    balancer.failed(instance("b"), refused=True)
    assert order(balancer, 2, asking(cookie="sc-lb-instance-id=b")) == "aa"


def test_the_same_instance_as_long_as_it_is_there():
    registry = Registry("a", "b", "c")
    settings = {f"{SPRING}.configurations": "same-instance-preference"}
    balancer = Balancer(registry, Environment(properties("x", settings)))
    first = balancer.choose("s")
    assert {balancer.choose("s") for _ in range(9)} == {first}
    other = balancer.choose("s", exclude=[first])
    assert {balancer.choose("s") for _ in range(9)} == {other}
    registry.listed = tuple(one for one in registry.listed if one != other)
    assert balancer.choose("s") != other


def test_subset_is_each_callers_own_and_all_together_are_burdened_alike():
    listed = [instance(f"i{number:02}") for number in range(12)]
    seen: Counter[str] = Counter()
    for caller in range(120):
        more = {"configurations": "subset", "subset_size": "4"}
        own = balancer_of(*listed, **more, **{"subset_instance-id": f"caller:{caller}"})
        mine = set(chosen(own, 40))
        assert len(mine) == 4
        again = balancer_of(*listed, **more, **{"subset_instance-id": f"caller:{caller}"})
        assert set(chosen(again, 40)) == mine
        seen.update(mine)
    assert len(seen) == 12
    assert max(seen.values()) < 2 * min(seen.values())


def test_a_subset_of_few_is_all():
    few = balancer_of(*(instance(name) for name in "abc"), configurations="subset")
    assert set(chosen(few, 9)) == set("abc")


VERSIONED = [
    instance("a", API_VERSION="1"),
    instance("b", API_VERSION="v2.1"),
    instance("c"),
]


@pytest.mark.parametrize(
    ("settings", "request_", "expected"),
    [
        pytest.param({"header": "X-Version"}, {"x-version": "1.0"}, "a", id="header"),
        pytest.param({"query-parameter": "v"}, {":path": "/x?u=1&v=2.1.0"}, "b", id="parameter"),
        pytest.param({"path-segment": "1"}, {":path": "/api/v1/x?v=2.1"}, "a", id="path"),
        pytest.param(
            {"media-type-parameters.[application/json]": "version"},
            {"accept": "text/html;version=1, application/json; version=2.1"},
            "b",
            id="media type",
        ),
        pytest.param(
            {"header": "X-Version", "path-segment": "0"},
            {"x-version": "2.1", ":path": "/v1"},
            "b",
            id="the header comes first",
        ),
        pytest.param({"header": "X-Version", "default": "2.1"}, {}, "b", id="default"),
        pytest.param({"header": "X-Version"}, {}, "", id="nothing asked for"),
        pytest.param({"header": "X-Version"}, {"x-version": "3"}, "", id="nobody has it"),
        pytest.param({"header": "X-Version"}, {"x-version": "latest"}, "", id="no version"),
        pytest.param(
            {"header": "X-Version", "fallback-to-available-instances": "true"},
            {"x-version": "3"},
            "abc",
            id="nobody has it, then anybody",
        ),
    ],
)
def test_versions_of_an_api(settings, request_, expected):
    given = {f"api-version_{key}": text for key, text in settings.items()}
    balancer = balancer_of(*VERSIONED, configurations="api-version", **given)
    if expected:
        assert "".join(sorted(order(balancer, len(expected), request_.get))) == expected
        return
    with pytest.raises(UnavailableError):
        balancer.choose("s", header=request_.get)


def test_least_in_flight():
    balancer = balancer_of(*map(instance, "abc"), configurations="least-in-flight")

    def call() -> tuple[str, Any]:
        chosen = balancer.choose("s")
        calling = balancer.calling("s", chosen, "GET")
        calling.__enter__()
        return chosen.instance_id, calling

    calls = [call() for _ in range(6)]
    assert Counter(name for name, _ in calls) == {"a": 2, "b": 2, "c": 2}
    for name, calling in calls:
        if name == "b":
            calling.__exit__(None, None, None)
    assert [call()[0] for _ in range(2)] == ["b", "b"]


def test_statistics():
    balancer = balancer_of(instance("a"), stats_micrometer_enabled="true")
    request = {"method": "GET", "uri": "/x/{id}"}
    answered = {"outcome": "SERVER_ERROR", "status": "500", "exception": "none"}
    before = counted("success_seconds_count", **request, **answered)
    with balancer.calling("s", balancer.choose("s"), "GET", "/x/{id}") as calling:
        assert counted("active") == 1
        calling.status = 500
    assert counted("active") == 0
    assert counted("success_seconds_count", **request, **answered) == before + 1
    broken = {"method": "UNKNOWN", "uri": "UNKNOWN", "exception": "ConnectionError"}
    before = counted("failed_seconds_count", **broken)
    with pytest.raises(ConnectionError), balancer.calling("s", instance("a"), "DO\n", ""):
        raise ConnectionError
    assert counted("failed_seconds_count", **broken) == before + 1


def test_a_call_for_which_nobody_is_there_is_counted():
    balancer = balancer_of(stats_micrometer_enabled="true")
    with pytest.raises(UnavailableError):
        balancer.choose("s")
    unknown = dict.fromkeys(
        (
            "method",
            "uri",
            "serviceInstance_instanceId",
            "serviceInstance_host",
            "serviceInstance_port",
        ),
        "UNKNOWN",
    )
    assert counted("discard_total", **unknown) >= 1


asked: Counter[str] = Counter()


@pytest.fixture
def house() -> Iterator[Callable[[str, int], Instance]]:
    """A real server whose health can be set: `house("a", 200)`."""
    made: list[Serving] = []

    def start(name: str, status: int) -> Instance:
        class Health(Handler):
            def reply(self) -> None:
                asked[name] += 1
                self.answer(status if self.path == "/well" else 404)

        made.append(Serving(Health))
        return instance(name, port=made[-1].port)

    yield start
    for one in made:
        one.close()


def test_health_check(house):
    those = house("a", 200), house("b", 503), instance("c", port=1)
    settings = {
        "configurations": "health-check",
        "health-check_path_s": "/well",
        "health-check_interval": "50ms",
    }
    balancer = balancer_of(*those, **settings)
    eventually(lambda: set(order(balancer, 6)) == {"a"})
    # Alone, a sick one is better than nobody.
    everybody_sick = balancer_of(those[1], those[2], **settings)
    everybody_sick.choose("s")
    before = asked["b"]
    eventually(lambda: asked["b"] > before + 2)
    assert set(order(everybody_sick, 4)) == {"b", "c"}


def test_each_service_by_its_own_settings_and_anew_after_a_refresh():
    own = f"{SPRING}.clients.s"
    environment = Environment(
        properties("x", {f"{own}.configurations": "zone-preference", f"{own}.zone": "east"})
    )
    registry = Registry()
    registry.listed = instance("a", zone="east"), instance("b", zone="west")
    balancer = Balancer(registry, environment)
    assert set(order(balancer, 4)) == {"a"}
    with pytest.raises(ConfigurationError):
        environment.ensure(properties("x", {f"{own}.configurations": "no such thing"}))
    environment.replace(properties("x", {f"{SPRING}.configurations": "default"}))
    assert set(order(balancer, 4)) == {"a", "b"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("configurations", "round-robbing"),
        ("clients.movie-service.configurations", "secret"),
        ("clients.movie-service.retry.retryable-status-codes", "5xx"),
        ("health-check.interval", "soon"),
        ("api-version.default", "newest"),
        ("subset.size", "0x"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_with_its_source_not_its_value(key, value):
    held = {f"{SPRING}.{key}": PropertyValue(value, "application.yml:7")}
    read = Properties("x", ("test",), (PropertySource("file", held),))
    with pytest.raises(ConfigurationError) as failure:
        check(read)
    told = str(failure.value)
    assert f"{SPRING}.{key}" in told
    assert "application.yml:7" in told
    assert value not in told
