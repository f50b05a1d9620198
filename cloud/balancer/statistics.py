"""Statistics: what Spring's MicrometerStatsLoadBalancerLifecycle counts, under its names."""

from time import perf_counter

from prometheus_client import Counter, Gauge

from cloud.eureka import Instance
from cloud.metrics import METHODS, Timer, outcome

_UNKNOWN = "UNKNOWN"
_WHERE = ("serviceId", "serviceInstance_instanceId", "serviceInstance_host", "serviceInstance_port")
_REQUEST = ("method", "uri")
_RESULT = ("outcome", "status", "exception")

_active = Gauge(
    "loadbalancer_requests_active",
    "Calls to an instance under way",
    _WHERE,
    multiprocess_mode="livesum",
)
_success = Timer(
    "loadbalancer_requests_success_seconds",
    "Calls that an instance answered",
    (*_WHERE, *_REQUEST, *_RESULT),
)
_failed = Timer(
    "loadbalancer_requests_failed_seconds",
    "Calls that no answer came to",
    (*_WHERE, *_REQUEST, "exception"),
)
_discard = Counter(
    "loadbalancer_requests_discard", "Calls that no instance was there for", (*_WHERE, *_REQUEST)
)


def discarded(service_id: str) -> None:
    """Count a call for which there was no instance."""
    _discard.labels(service_id, *(_UNKNOWN,) * 5).inc()


class Counted:
    """One call to one instance, from `begin` to `end`."""

    __slots__ = ("_request", "_started", "_where")

    def __init__(self, service_id: str, instance: Instance, method: str, uri: str) -> None:
        self._where = service_id, instance.instance_id, instance.host, str(instance.port)
        # A client may send any word for a method; each would be a time series of its own.
        self._request = method if method in METHODS else _UNKNOWN, uri or _UNKNOWN

    def begin(self) -> None:
        self._started = perf_counter()
        _active.labels(*self._where).inc()

    def end(self, status: int, error: BaseException | None) -> None:
        took_s = perf_counter() - self._started
        _active.labels(*self._where).dec()
        if status:
            result = outcome(status), str(status), "none"
            _success.add((*self._where, *self._request, *result), 1, took_s, took_s)
        else:
            name = type(error).__name__ if error else _UNKNOWN
            _failed.add((*self._where, *self._request, name), 1, took_s, took_s)
