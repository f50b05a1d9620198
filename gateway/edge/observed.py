"""What operators see of the data plane: noted in memory, written in batches."""

from collections.abc import Iterable
from datetime import UTC, datetime
from time import monotonic, time

from prometheus_client import Counter, Gauge, Summary

from cloud import logging
from cloud.breaker import CircuitBreaker, State
from gateway.exchange import Exchange

_OUTCOMES = ("INFORMATIONAL", "SUCCESS", "REDIRECTION", "CLIENT_ERROR", "SERVER_ERROR")
_WINDOW_S = 60
# Written at once; many more would make other requests wait noticeably.
_LINES = 32
_ROUTE = ("routeId", "routeUri", "outcome", "status", "httpStatusCode", "httpMethod")
_SERVER = ("error", "exception", "method", "outcome", "status", "uri")

Labels = tuple[str, ...]


class _Timer:
    """A Micrometer timer: count and sum, and the slowest of the last one to two minutes."""

    def __init__(self, name: str, text: str, labels: Labels) -> None:
        self._summary = Summary(name, text, labels)
        self._slowest = Gauge(f"{name}_max", text, labels, multiprocess_mode="livemax")
        self._now: dict[Labels, float] = {}
        self._before: dict[Labels, float] = {}

    def add(self, labels: Labels, count: int, total_s: float, slowest_s: float) -> None:
        child = self._summary.labels(*labels)
        # The library observes one value at a time, which is what batches are to avoid.
        child._count.inc(count)  # noqa: SLF001
        child._sum.inc(total_s)  # noqa: SLF001
        self._now[labels] = peak = max(slowest_s, self._now.get(labels, 0.0))
        self._slowest.labels(*labels).set(max(peak, self._before.get(labels, 0.0)))

    def turn(self) -> None:
        gone = self._before.keys() - self._now.keys()
        self._before, self._now = self._now, {}
        for labels in gone:
            self._slowest.labels(*labels).set(0)
        for labels, peak in self._before.items():
            self._slowest.labels(*labels).set(peak)


_gateway = _Timer("spring_cloud_gateway_requests_seconds", "Time of a routed request", _ROUTE)
_server = _Timer(
    "http_server_requests_seconds", "Time of a request until its answer ended", _SERVER
)
_state = Gauge(
    "resilience4j_circuitbreaker_state",
    "1 for the state that a breaker is in",
    ("name", "state"),
    multiprocess_mode="livemax",
)
_rate = Gauge(
    "resilience4j_circuitbreaker_failure_rate",
    "Percent; -1 below the minimum number of calls",
    ("name",),
    multiprocess_mode="livemax",
)
_refused = Counter("resilience4j_circuitbreaker_not_permitted_calls", "Calls refused", ("name",))


class Observed:
    """One worker's notes; `note` costs a dictionary look-up, `flush` does the rest."""

    def __init__(self) -> None:
        self._times: dict[tuple[str, str, int], list[float]] = {}
        self._lines: list[tuple[float, Exchange, int, float]] = []
        self._refusals: dict[str, int] = {}
        self._turned = monotonic()

    def note(self, exchange: Exchange, status: int, took_s: float) -> None:
        key = exchange.route, exchange.method, status
        seen = self._times.get(key)
        if seen is None:
            self._times[key] = [1, took_s, took_s]
        else:
            seen[0] += 1
            seen[1] += took_s
            seen[2] = max(seen[2], took_s)
        if not exchange.path.startswith("/actuator"):
            self._lines.append((time(), exchange, status, took_s))
            if len(self._lines) >= _LINES:
                self._write()

    def flush(self, uris: dict[str, str], breakers: Iterable[CircuitBreaker]) -> None:
        """Write what was noted; `uris` knows where each route leads."""
        times, self._times = self._times, {}
        self._write()
        for (route, method, status), (count, total_s, slowest_s) in times.items():
            outcome = _OUTCOMES[status // 100 - 1]
            labels = ("none", "none", method, outcome, str(status), route or "UNKNOWN")
            _server.add(labels, int(count), total_s, slowest_s)
            if route:
                labels = (route, uris.get(route, ""), outcome, str(status), str(status), method)
                _gateway.add(labels, int(count), total_s, slowest_s)
        if monotonic() - self._turned > _WINDOW_S:
            self._turned = monotonic()
            _gateway.turn()
            _server.turn()
        for breaker in breakers:
            self._breaker(breaker)

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            logging.write_batch("gateway.access", [_line(*line) for line in lines])

    def _breaker(self, breaker: CircuitBreaker) -> None:
        for state in State:
            _state.labels(breaker.name, state.name.lower()).set(state is breaker.state)
        _rate.labels(breaker.name).set(breaker.failure_rate)
        fresh = breaker.not_permitted - self._refusals.get(breaker.name, 0)
        if fresh > 0:
            _refused.labels(breaker.name).inc(fresh)
        self._refusals[breaker.name] = breaker.not_permitted


def _line(at: float, exchange: Exchange, status: int, took_s: float) -> dict[str, object]:
    """The access line of the wire contract, and the same in fields."""
    user = exchange.principal.user_id if exchange.principal else None
    took_ms = round(took_s * 1000)
    fields: dict[str, object] = {
        "@timestamp": datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
        "message": f"[{exchange.correlation_id}] {exchange.method} {exchange.raw_path} - {status}"
        f" - {took_ms}ms - IP:{exchange.client} - User:{user or 'anonymous'}",
        "trace.id": exchange.correlation_id.replace("-", ""),
        "labels.correlation_id": exchange.correlation_id,
        "http.request.method": exchange.method,
        "url.path": exchange.raw_path,
        "http.response.status_code": status,
        "client.ip": exchange.client,
        "nozie.route": exchange.route,
        "nozie.took_ms": took_ms,
    }
    if user is not None:
        fields["user.id"] = user
    return fields
