"""Retries are a share of the calls, by Spring's keys."""

import pytest

from cloud.balancer import RetrySettings
from cloud.retry import RetryBudget
from cloud.testing import properties


class Clock:
    """Monotonic seconds that a test moves."""

    time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.mark.parametrize(
    ("calls", "granted"),
    [
        pytest.param(0, 3, id="a quiet client has three"),
        pytest.param(52, 13, id="a fifth of the calls comes on top"),
        pytest.param(10_000, 30, id="savings end"),
    ],
)
def test_budget(calls, granted):
    budget = RetryBudget(now=Clock())
    for _ in range(calls):
        budget.called()
    assert sum(budget.permits() for _ in range(100)) == granted


def test_a_storm_of_failures_is_retried_for_a_fifth_only():
    budget = RetryBudget(now=Clock())
    retries = 0
    for _ in range(1000):
        budget.called()
        retries += budget.permits()
    assert retries <= 203


def test_time_gives_some_back():
    clock = Clock()
    budget = RetryBudget(now=clock)
    assert sum(budget.permits() for _ in range(10)) == 3
    clock.time = 3.4
    assert sum(budget.permits() for _ in range(10)) == 1
    clock.time = 1000
    assert sum(budget.permits() for _ in range(10)) == 3


def test_settings_of_one_client_come_before_those_of_all():
    own = "spring.cloud.loadbalancer.clients.movie-service.retry"
    read = properties(
        "x",
        {
            "spring.cloud.loadbalancer.retry.max-retries-on-next-service-instance": "2",
            f"{own}.retryable-status-codes": "502,503",
            f"{own}.retry-on-all-operations": "true",
        },
    )
    movie, other = RetrySettings.of(read, "movie-service"), RetrySettings.of(read, "other")
    assert (movie.following, other.following) == (2, 2)
    assert (movie.statuses, other.statuses) == (frozenset({502, 503}), frozenset[int]())
    assert (movie.may_repeat("POST"), other.may_repeat("POST")) == (True, False)
    assert other.may_repeat("GET")
