"""What operators see of the data plane: noted in memory, written in batches."""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from time import time

from prometheus_client import Gauge

from cloud import breaker, logging
from cloud.exchanges import recent
from cloud.metrics import Timer, count_lines, http_server_requests, outcome
from gateway.exchange import Exchange

# Written at once; many more would make other requests wait noticeably.
_LINES = 32
_ROUTE = ("routeId", "routeUri", "outcome", "status", "httpStatusCode", "httpMethod")

_gateway = Timer("spring_cloud_gateway_requests_seconds", "Time of a routed request", _ROUTE)
_routes = Gauge("spring_cloud_gateway_routes_count", "Routes in force", multiprocess_mode="livemax")


class Observed:
    """One worker's notes; `note` costs a dictionary look-up, `flush` does the rest."""

    def __init__(self, actuator: str = "/actuator") -> None:
        count_lines()
        self._actuator = actuator
        # Buckets need every single time; nobody else does.
        self._detailed = bool(http_server_requests.bounds or _gateway.bounds)
        self._each: dict[tuple[str, str, int], list[float]] = {}
        self._times: dict[tuple[str, str, int], list[float]] = {}
        self._lines: list[tuple[float, Exchange, int, float]] = []

    def note(self, exchange: Exchange, status: int, took_s: float) -> None:
        key = exchange.route, exchange.method, status
        seen = self._times.get(key)
        if seen is None:
            self._times[key] = [1, took_s, took_s]
        else:
            seen[0] += 1
            seen[1] += took_s
            seen[2] = max(seen[2], took_s)
        if self._detailed:
            self._each.setdefault(key, []).append(took_s)
        if not exchange.path.startswith(self._actuator):
            if recent.admits():
                _keep(exchange, status, took_s)
            self._lines.append((time(), exchange, status, took_s))
            if len(self._lines) >= _LINES:
                self._write()

    def flush(self, uris: dict[str, str], breakers: Iterable[breaker.CircuitBreaker]) -> None:
        """Write what was noted; `uris` knows where each route leads."""
        _routes.set(len(uris))
        times, self._times = self._times, {}
        each, self._each = self._each, {}
        self._write()
        for (route, method, status), (count, total_s, slowest_s) in times.items():
            kind, each_s = outcome(status), each.get((route, method, status))
            labels = ("none", "none", method, kind, str(status), route or "UNKNOWN")
            http_server_requests.add(labels, int(count), total_s, slowest_s, each_s)
            if route:
                labels = (route, uris.get(route, ""), kind, str(status), str(status), method)
                _gateway.add(labels, int(count), total_s, slowest_s, each_s)
        _gateway.turn()
        http_server_requests.turn()
        breaker.flush(breakers)

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            logging.write_batch("gateway.access", [_line(*line) for line in lines])


@lru_cache(2)
def _second(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _keep(exchange: Exchange, status: int, took_s: float) -> None:
    query = f"?{exchange.query}" if exchange.query else ""
    recent.keep(
        exchange.method,
        f"{exchange.scheme}://{exchange.host}{exchange.raw_path}{query}",
        status,
        at=time() - took_s,
        took_s=took_s,
        remote=exchange.client,
        principal=str(exchange.principal.user_id) if exchange.principal else None,
        request=exchange.headers,
        response=(),
    )


def _line(at: float, exchange: Exchange, status: int, took_s: float) -> dict[str, object]:
    """The access line of the wire contract, and the same in fields."""
    user = exchange.principal.user_id if exchange.principal else None
    took_ms = round(took_s * 1000)
    second, correlation_id = int(at), exchange.correlation_id
    fields: dict[str, object] = {
        "@timestamp": f"{_second(second)}.{int((at - second) * 1000):03}Z",
        "message": f"[{correlation_id}] {exchange.method} {exchange.raw_path} - {status}"
        f" - {took_ms}ms - IP:{exchange.client} - User:{user or 'anonymous'}",
        "trace.id": correlation_id.replace("-", ""),
        "labels.correlation_id": correlation_id,
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
