"""The last calls, or the calls of the last seconds, with running totals.

Source: Resilience4j's FixedSizeSlidingWindowMetrics and SlidingTimeWindowMetrics.
"""

from collections import deque
from typing import Final

FAILED: Final = 1
SLOW: Final = 2


class Window:
    """Counts of one stay in a state; every verdict is drawn from them.

    Attributes:
        least: calls without which there is no verdict.
        calls, failed, slow, slow_failed: what is in the window.
        refused: calls that were not permitted meanwhile.
    """

    __slots__ = ("calls", "failed", "least", "refused", "slow", "slow_failed")

    def __init__(self, least: int) -> None:
        self.least = least
        self.calls = self.failed = self.slow = self.slow_failed = self.refused = 0

    def add(self, now: float, outcome: int) -> None:
        """Count a call; `outcome` is a sum of FAILED and SLOW."""
        raise NotImplementedError

    def trim(self, now: float) -> None:
        """Forget what has left the window."""

    @property
    def rates(self) -> tuple[float, float]:
        """Return the failed and the slow in percent; -1 when that would be too early to say."""
        if not self.calls or self.calls < self.least:
            return -1.0, -1.0
        return 100.0 * self.failed / self.calls, 100.0 * self.slow / self.calls

    def _count(self, outcome: int, by: int) -> None:
        if outcome & FAILED:
            self.failed += by
        if outcome & SLOW:
            self.slow += by
        if outcome == FAILED | SLOW:
            self.slow_failed += by


class CountWindow(Window):
    """The last `size` calls, a byte each."""

    __slots__ = ("_next", "_ring")

    def __init__(self, size: int, least: int) -> None:
        # It can never hold more.
        super().__init__(min(least, size))
        self._ring = bytearray(size)
        self._next = 0

    def add(self, _now: float, outcome: int) -> None:
        ring, place = self._ring, self._next
        if self.calls < len(ring):
            self.calls += 1
        elif gone := ring[place]:
            self._count(gone, -1)
        ring[place] = outcome
        if outcome:
            self._count(outcome, 1)
        self._next = place + 1 if place + 1 < len(ring) else 0


class TimeWindow(Window):
    """The calls of the present second and those before it, `size` in all."""

    __slots__ = ("_seconds", "_size")

    def __init__(self, size: int, least: int) -> None:
        super().__init__(least)
        self._size = size
        # Second, and per outcome how many.
        self._seconds: deque[tuple[int, list[int]]] = deque()

    def add(self, now: float, outcome: int) -> None:
        second = int(now)
        if not self._seconds or self._seconds[-1][0] != second:
            self.trim(now)
            self._seconds.append((second, [0, 0, 0, 0]))
        self._seconds[-1][1][outcome] += 1
        self.calls += 1
        if outcome:
            self._count(outcome, 1)

    def trim(self, now: float) -> None:
        oldest = int(now) - self._size
        while self._seconds and self._seconds[0][0] <= oldest:
            _, counts = self._seconds.popleft()
            self.calls -= sum(counts)
            for outcome, count in enumerate(counts):
                self._count(outcome, -count)
