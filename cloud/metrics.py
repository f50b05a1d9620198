"""The meters that dashboards of a Spring estate ask for, under Micrometer's names.

Counts and sums of all workers are added up by prometheus_client's files; the maximum is that of
the last one to two minutes, as Micrometer's is.
"""

import logging
from collections.abc import Sequence
from functools import cached_property
from threading import Lock
from time import monotonic
from typing import Any, Final
from weakref import WeakSet

from prometheus_client import Counter, Gauge, Histogram, Summary, disable_created_metrics

Labels = tuple[str, ...]

METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_OUTCOMES = ("INFORMATIONAL", "SUCCESS", "REDIRECTION", "CLIENT_ERROR", "SERVER_ERROR")
_WINDOW_S = 60

disable_created_metrics()  # type: ignore[no-untyped-call]

timers: "list[Timer]" = []
"""All of this process."""

pools: "WeakSet[Any]" = WeakSet()
"""Connection pools of this process, SQLAlchemy's; who makes one adds it."""


class Timer:
    """A Micrometer timer: count, sum, and the slowest of the last one to two minutes.

    Attributes:
        bounds: of the buckets, in seconds; empty when nobody has asked for them.
    """

    def __init__(self, name: str, text: str, labels: Labels) -> None:
        self.name = name
        self.bounds: tuple[float, ...] = ()
        self._text, self._labels = text, labels
        self._slowest = Gauge(f"{name}_max", text, labels, multiprocess_mode="livemax")
        self._lock = Lock()
        self._since = monotonic()
        self._now: dict[Labels, float] = {}
        self._before: dict[Labels, float] = {}
        timers.append(self)

    @cached_property
    def _family(self) -> Summary | Histogram:
        """Made with the first observation: until then configuration may ask for buckets."""
        if self.bounds:
            return Histogram(self.name, self._text, self._labels, buckets=self.bounds)
        return Summary(self.name, self._text, self._labels)

    def add(
        self,
        labels: Labels,
        count: int,
        total_s: float,
        slowest_s: float,
        each_s: Sequence[float] | None = None,
    ) -> None:
        """Take over `count` observations at once.

        Args:
            labels: in the order of the timer's.
            count: how many.
            total_s: their sum.
            slowest_s: their maximum.
            each_s: all of them, which buckets need; absent, all took the average.
        """
        child = self._family.labels(*labels)
        if isinstance(child, Histogram):
            for one_s in each_s or (total_s / count,) * count:
                child.observe(one_s)
        else:
            # The library observes one value at a time, which is what batches are to avoid.
            child._count.inc(count)  # noqa: SLF001
            child._sum.inc(total_s)  # noqa: SLF001
        self.turn()
        with self._lock:
            self._now[labels] = peak = max(slowest_s, self._now.get(labels, 0.0))
            peak = max(peak, self._before.get(labels, 0.0))
        self._slowest.labels(*labels).set(peak)

    def turn(self) -> None:
        """Begin a new window when the old one is over; whoever is idle must ask now and then."""
        with self._lock:
            if monotonic() - self._since < _WINDOW_S:
                return
            gone = self._before.keys() - self._now.keys()
            self._since, self._before, self._now = monotonic(), self._now, {}
            peaks = dict.fromkeys(gone, 0.0) | self._before
        for labels, peak in peaks.items():
            self._slowest.labels(*labels).set(peak)


http_server_requests = Timer(
    "http_server_requests_seconds",
    "Time of a request",
    ("error", "exception", "method", "outcome", "status", "uri"),
)
_lines = Counter("logback_events", "Lines written to the log", ("level",))


def outcome(status: int) -> str:
    """Name the class of a status as Micrometer does."""
    return _OUTCOMES[status // 100 - 1] if 100 <= status < 600 else "UNKNOWN"  # noqa: PLR2004


def count_lines() -> None:
    """Count what this process logs, by Logback's level names."""
    root = logging.getLogger()
    if _counter not in root.handlers:
        root.addHandler(_counter)


class _LineCounter(logging.Handler):
    _NAMES = ((logging.ERROR, "error"), (logging.WARNING, "warn"), (logging.INFO, "info"))

    def emit(self, record: logging.LogRecord) -> None:
        names = (name for level, name in self._NAMES if record.levelno >= level)
        _lines.labels(next(names, "debug")).inc()


_counter = _LineCounter()
