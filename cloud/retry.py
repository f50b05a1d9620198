"""The retry budget: how many calls may be made again, of all that are made."""

import threading
import time
from collections.abc import Callable


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
