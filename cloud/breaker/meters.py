"""What is counted of breakers, under Resilience4j's names.

Breakers tally calls themselves; here the tallies become counters, now and then, so that a call pays
for a few additions only. What a breaker is at the moment is read when somebody asks.
"""

from collections.abc import Iterable
from typing import Final

from prometheus_client import Counter

from cloud.breaker.machine import CircuitBreaker
from cloud.metrics import Timer

GROUP: Final = "none"
"""Spring Cloud's default tag for breakers without a group."""

_KINDS: Final = ("successful", "failed", "ignored")

_calls = Timer(
    "resilience4j_circuitbreaker_calls_seconds", "Time of a call", ("group", "kind", "name")
)
_refused = Counter(
    "resilience4j_circuitbreaker_not_permitted_calls", "Calls refused", ("group", "kind", "name")
)


def flush(breakers: Iterable[CircuitBreaker]) -> None:
    """Add what was tallied since the last time."""
    for breaker in breakers:
        tallies, refused = breaker.take_tallies()
        for kind, tally in zip(_KINDS, tallies, strict=True):
            if tally.count:
                labels = (GROUP, kind, breaker.name)
                _calls.add(labels, tally.count, tally.total_s, tally.slowest_s)
        if refused:
            _refused.labels(GROUP, "not_permitted", breaker.name).inc(refused)
    _calls.turn()
