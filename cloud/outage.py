"""A neighbour that is away, as a loop that needs it lives with that: it says so once, and waits."""

import random
import threading
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from threading import Event as Stop
from weakref import WeakSet

import structlog

log = structlog.get_logger()

_lock = threading.Lock()
_away: defaultdict[str, "WeakSet[Outage]"] = defaultdict(WeakSet)


class Outage:
    """Tells that a neighbour is away, and that it is back; waits longer each time.

    Of several loops of a process that miss the same neighbour the first and the last one speak.
    """

    def __init__(self, neighbour: str, longest: timedelta = timedelta(seconds=5)) -> None:
        self._neighbour = neighbour
        self._longest = longest.total_seconds()
        self._delay = 0.0

    def away(
        self, reason: object, stop: Stop, pause: Callable[[float, Stop], object] | None = None
    ) -> None:
        """Log the reason, if it is new, and wait before the next attempt, or until `stop`.

        Args:
            reason: what the neighbour's driver said.
            stop: ends the wait.
            pause: waits so many seconds in another manner than the stop's own.
        """
        seconds = self._next_delay(reason)
        if pause is None:
            stop.wait(seconds)
        else:
            pause(seconds, stop)
        if stop.is_set():
            self._leave()

    def _next_delay(self, reason: object) -> float:
        if not self._delay and self._enter():
            log.warning(
                "waiting_for", neighbour=self._neighbour, reason=str(reason) or repr(reason)
            )
        self._delay = min(self._longest, self._delay * 2 or 0.25)
        # Instances that lost the broker together must not come back together.
        return self._delay * random.uniform(0.5, 1)  # noqa: S311 - no secret

    def back(self) -> None:
        """End the outage, if there was one."""
        if self._delay and self._leave():
            log.info("neighbour_back", neighbour=self._neighbour)
        self._delay = 0.0

    def _enter(self) -> bool:
        """Begin to miss the neighbour; True when nobody else of the process does."""
        with _lock:
            others = _away[self._neighbour]
            others.add(self)
            return len(others) == 1

    def _leave(self) -> bool:
        """Miss the neighbour no more; True when nobody else of the process does."""
        with _lock:
            others = _away[self._neighbour]
            others.discard(self)
            return not others
