"""The meters that dashboards of a Spring estate ask for, under Micrometer's names.

Counts and sums of all workers are added up by prometheus_client's files; the maximum is that of
the last one to two minutes, as Micrometer's is.
"""

import logging
from collections.abc import MutableMapping
from threading import Lock
from time import monotonic

from prometheus_client import Counter, Gauge, Summary, disable_created_metrics

_LABELS = ("error", "exception", "method", "outcome", "status", "uri")
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_OUTCOMES = ("INFORMATIONAL", "SUCCESS", "REDIRECTION", "CLIENT_ERROR", "SERVER_ERROR")
_WINDOW_SECONDS = 60

disable_created_metrics()  # type: ignore[no-untyped-call]

_requests = Summary("http_server_requests_seconds", "Time of a request until its headers", _LABELS)
_slowest = Gauge(
    "http_server_requests_seconds_max",
    "Slowest request of the last minutes",
    _LABELS,
    multiprocess_mode="livemax",
)
_lines = Counter("logback_events", "Lines written to the log", ("level",))


class _Peaks:
    """Maximum per label set over this window and the one before."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._since = monotonic()
        self._now: MutableMapping[tuple[str, ...], float] = {}
        self._before: MutableMapping[tuple[str, ...], float] = {}

    def add(self, labels: tuple[str, ...], seconds: float) -> None:
        with self._lock:
            if monotonic() - self._since > _WINDOW_SECONDS:
                self._turn()
            self._now[labels] = max(seconds, self._now.get(labels, 0.0))
            peak = max(self._now[labels], self._before.get(labels, 0.0))
        _slowest.labels(*labels).set(peak)

    def _turn(self) -> None:
        """Begin a window; a health probe every few seconds makes sure that it happens."""
        gone = self._before.keys() - self._now.keys()
        self._since, self._before, self._now = monotonic(), self._now, {}
        for labels in gone:
            _slowest.labels(*labels).set(0)
        for labels, peak in self._before.items():
            _slowest.labels(*labels).set(peak)


_peaks = _Peaks()


def observe(method: str, route: str, status: int, failure: str | None, seconds: float) -> None:
    """Count one request. Label values come from small sets only, whatever a client sends."""
    kind = failure or "none"
    method = method if method in _METHODS else "UNKNOWN"
    outcome = _OUTCOMES[status // 100 - 1] if 100 <= status < 600 else "UNKNOWN"  # noqa: PLR2004
    labels = (kind, kind, method, outcome, str(status), route)
    _requests.labels(*labels).observe(seconds)
    _peaks.add(labels, seconds)


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
