"""Retries: which calls may be repeated, and how many of them in all."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cloud.config import Properties

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

_SPRING = "spring.cloud.loadbalancer"


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """Spring Cloud LoadBalancer's rules, per service (`clients.<id>`) or for all.

    Attributes:
        same, following: further tries on the same instance, and on next ones.
        statuses: answers that are treated as no answer.
        all_methods: repeat unsafe methods, too. They may then take effect twice.
    """

    enabled: bool
    same: int
    following: int
    statuses: frozenset[int]
    all_methods: bool

    @classmethod
    def of(cls, properties: Properties, service_id: str) -> "RetrySettings":
        def key(option: str) -> str:
            own = f"{_SPRING}.clients.{service_id}.retry.{option}"
            given = properties.get(own) is not None or properties.listing(own)
            return own if given else f"{_SPRING}.retry.{option}"

        return cls(
            enabled=properties.boolean(key("enabled"), default=True),
            same=properties.integer(key("max-retries-on-same-service-instance"), 0, minimum=0),
            following=properties.integer(key("max-retries-on-next-service-instance"), 1, minimum=0),
            statuses=frozenset(map(int, properties.listing(key("retryable-status-codes")))),
            all_methods=properties.boolean(key("retry-on-all-operations"), default=False),
        )

    def may_repeat(self, method: str) -> bool:
        """Tell whether a call that may have reached the callee can be made again."""
        return self.enabled and (method in SAFE or self.all_methods)


class RetryBudget:
    """Retries as a share of calls: when everything fails, retries must not double the load.

    Every call puts `ratio` of a retry into the budget, time adds a few, so that a quiet client
    can retry at all. Source: Envoy's retry budget (20 %, at least 3).

    Args:
        ratio: retries per call.
        least: retries in ten seconds that are always granted.
        now: monotonic seconds.
    """

    def __init__(
        self, ratio: float = 0.2, least: int = 3, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._ratio = ratio
        self._least = least
        self._now = now
        self._lock = threading.Lock()
        self._balance = float(least)
        self._since = now()

    def called(self) -> None:
        """Note one call, whatever becomes of it."""
        with self._lock:
            # Savings end here: an hour without faults must not pay for a storm.
            self._balance = min(self._balance + self._ratio, 10.0 * self._least)

    def permits(self) -> bool:
        """Take one retry out of the budget; False when it is spent."""
        with self._lock:
            now = self._now()
            earned = (now - self._since) * self._least / 10
            self._since = now
            self._balance += min(earned, max(0.0, self._least - self._balance))
            if self._balance < 1:
                return False
            self._balance -= 1
            return True
