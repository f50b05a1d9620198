"""The balancer goes round, past instances that just failed, and never leaves a service empty."""

import pytest

from cloud.balancer import Balancer
from cloud.errors import UnavailableError
from cloud.eureka import Instance


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


def instance(name: str, startup: str = "1") -> Instance:
    return Instance(name, "S", ("s",), "127.0.0.1", 1, metadata={"startup": startup})


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
