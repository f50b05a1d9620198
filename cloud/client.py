"""Calls to another service by its id: registry, balancer, breaker, deadline, trace.

Paths go out as they are given: the pool level of urllib3 neither resolves dots nor decodes.
"""

import random
import re
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from threading import Lock
from time import sleep  # noqa: TID251 - the default of an argument
from typing import Any, Final
from urllib.parse import quote, urlencode

import orjson
import structlog
import urllib3
from opentelemetry.trace import SpanKind
from prometheus_client import Summary
from urllib3 import exceptions as faults

from cloud import tracing
from cloud.balancer import BROKEN, REFUSED, Balancer, RetrySettings
from cloud.breaker import Breakers, CircuitBreaker
from cloud.clock import utc_now
from cloud.config import Environment, Properties
from cloud.errors import DeadlineError, UnavailableError, UpstreamError
from cloud.eureka import Instance, view
from cloud.refresh import scope
from cloud.retry import RetryBudget

log = structlog.get_logger()

# The bearer token of the current request; `cloud.web` sets it, calls pass it on.
caller_token: ContextVar[str | None] = ContextVar("caller_token", default=None)

_FROM_CALLER: Final = "\0"
_LOAD_BALANCING = "spring.cloud.loadbalancer."
_MAX_POOLS = 256
_CHUNK = 65536

_requests = Summary(
    "http_client_requests_seconds",
    "Calls to other services",
    ("client_name", "error", "exception", "method", "outcome", "status", "uri"),
)
_OUTCOMES = ("INFORMATIONAL", "SUCCESS", "REDIRECTION", "CLIENT_ERROR", "SERVER_ERROR")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service answered, read to its end.

    Attributes:
        headers: names in lower case.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    service_id: str

    def json(self) -> Any:
        """Return the decoded body.

        Raises:
            UpstreamError: it is not JSON.
        """
        try:
            return orjson.loads(self.body)
        except ValueError as error:
            raise UpstreamError(f"{self.service_id} answered no JSON") from error


@dataclass(frozen=True, slots=True)
class _Call:
    """One call as it goes out; `ends` is monotonic."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None
    ends: float
    route: str

    def header(self, name: str) -> str | None:
        """Find a header by its name in lower case; `:path` is the target."""
        if name == ":path":
            return self.target
        return next((held for known, held in self.headers.items() if known.lower() == name), None)


class _Refused(Exception):  # noqa: N818 - caught here, never seen outside
    """No connection could be made: the call did not reach the instance."""


class _Broken(Exception):  # noqa: N818
    """The connection broke; whether the call took effect is unknown."""


class ServiceClient:
    """Calls one service, over kept connections to each of its instances.

    Around the whole call stands the service's breaker (`resilience4j.circuitbreaker.*`); inside it
    a call that was refused, or a safe one that broke, is tried on the next instance, as far as the
    retry budget goes (`spring.cloud.loadbalancer.retry.*`).

    Args:
        service_id: the name in the registry.
        environment: settings: `nozie.client.{connect-timeout,max-answer}`.
        timeout: for the whole call, retries included.
        balancer: shared by all clients of a process; an own one when absent.
        breakers: likewise.
        pause: waits between two tries, where `retry.backoff` asks for it.
    """

    def __init__(
        self,
        service_id: str,
        environment: Environment,
        *,
        timeout: timedelta = timedelta(seconds=2),
        balancer: Balancer | None = None,
        breakers: Breakers | None = None,
        pause: Callable[[float], None] = sleep,
    ) -> None:
        properties = environment.properties
        self._service_id = service_id
        self._environment = environment
        self._timeout = timeout
        self._connect_s, self._longest = _limits(properties)
        self._retry = RetrySettings.of(properties, service_id)
        self._budget = RetryBudget()
        self._breaker: CircuitBreaker = (breakers or Breakers(properties)).get(service_id)
        self._balancer = balancer
        self._pause = pause
        self._pools: dict[str, urllib3.HTTPConnectionPool] = {}
        self._lock = Lock()
        environment.require(_limits)
        environment.require(self._retries)
        environment.subscribe(self._refreshed)

    def _retries(self, properties: Properties) -> RetrySettings:
        return RetrySettings.of(properties, self._service_id)

    def _refreshed(self, properties: Properties, changed: frozenset[str]) -> None:
        self._connect_s, self._longest = _limits(properties)
        if any(key.startswith(_LOAD_BALANCING) for key in changed):
            self._retry = self._retries(properties)

    def get(
        self,
        path: str,
        *,
        values: Mapping[str, object] | None = None,
        params: Mapping[str, object] | None = None,
        token: str | None = _FROM_CALLER,
        deadline: datetime | None = None,
    ) -> Answer:
        """Fetch; see `request`."""
        return self.request(
            "GET", path, values=values, params=params, token=token, deadline=deadline
        )

    def request(
        self,
        method: str,
        path: str,
        *,
        values: Mapping[str, object] | None = None,
        params: Mapping[str, object] | None = None,
        json: object = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = _FROM_CALLER,
        deadline: datetime | None = None,
    ) -> Answer:
        """Call the service. Any status below 500 is an answer.

        Args:
            method: an HTTP method.
            path: may hold `{name}`; what `values` gives takes its place as one path segment.
            values: see `path`.
            params: the query; None values are left out.
            json: the body.
            headers: added to what is always sent.
            token: bearer token; the caller's when not given, none when None.
            deadline: an instant that shortens the timeout.

        Raises:
            UnavailableError: no instance, none that answers, or 503.
            DeadlineError: no answer in time, or 504.
            UpstreamError: another 5xx, or something that is no answer.
        """
        filled = {name: quote(str(value), safe="") for name, value in (values or {}).items()}
        target = path.format_map(filled) if values else path
        query = {name: value for name, value in (params or {}).items() if value is not None}
        if query:
            target = f"{target}?{urlencode(query, doseq=True)}"
        route = _route(path)
        seconds = self._timeout.total_seconds()
        if limit_s := self._breaker.time_limit_s:
            seconds = min(seconds, limit_s)
        if deadline is not None:
            seconds = min(seconds, (deadline - utc_now()).total_seconds())
        attributes = {"http.request.method": method, "peer.service": self._service_id}
        started = time.monotonic()
        status, failure = 0, "none"
        try:
            with tracing.span(f"{method} {route}", SpanKind.CLIENT, attributes=attributes) as span:
                call = _Call(
                    method,
                    target,
                    self._headers(headers, token, has_body=json is not None),
                    orjson.dumps(json) if json is not None else None,
                    started + seconds,
                    route,
                )
                answer = self._guarded(call)
                status = answer.status
                span.set_attribute("http.response.status_code", status)
                return _usable(answer)
        except Exception as error:
            failure = type(error).__name__
            raise
        finally:
            outcome = _OUTCOMES[status // 100 - 1] if status else "UNKNOWN"
            shown = str(status) if status else "CLIENT_ERROR"
            _requests.labels(
                self._service_id, failure, failure, method, outcome, shown, route
            ).observe(time.monotonic() - started)

    def _headers(
        self, extra: Mapping[str, str] | None, token: str | None, *, has_body: bool
    ) -> Mapping[str, str]:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", **(extra or {})}
        if has_body:
            headers["Content-Type"] = "application/json"
        bearer = caller_token.get() if token == _FROM_CALLER else token
        if bearer:
            headers["Authorization"] = f"Bearer {bearer}"
        tracing.inject(headers)
        return headers

    def _guarded(self, call: _Call) -> Answer:
        """Make the call under the breaker; only what says something about the service counts."""
        self._left(call)
        balancer = self._balancer or self._own_balancer()
        # Chosen before the breaker is asked: an empty registry is no fault of the service.
        first = balancer.choose(self._service_id, header=call.header)
        permit = self._breaker.acquire()
        try:
            answer = self._balanced(balancer, first, call)
        except (UnavailableError, DeadlineError, UpstreamError) as error:
            permit.failed(error)
            raise
        except BaseException:
            permit.released()
            raise
        if answer.status >= 500:  # noqa: PLR2004 - the server errors of RFC 9110
            permit.failed()
        else:
            permit.succeeded()
        return answer

    def _own_balancer(self) -> Balancer:
        # Made on first use, in a worker: building an app before the fork opens nothing.
        with self._lock:
            self._balancer = self._balancer or Balancer(view(self._environment), self._environment)
            return self._balancer

    def _balanced(self, balancer: Balancer, instance: Instance, call: _Call) -> Answer:
        self._budget.called()
        retry = self._retry
        tried: list[Instance] = []
        while True:
            tried.append(instance)
            met = ""
            try:
                answer = self._counted(balancer, instance, call)
            except _Refused as error:
                met = REFUSED
                balancer.failed(instance, refused=True)
                fault: Exception = UnavailableError(f"{self._service_id} does not answer")
                fault.__cause__ = error
            except _Broken as error:
                met = BROKEN
                balancer.failed(instance)
                fault = UnavailableError(f"{self._service_id} broke the connection")
                fault.__cause__ = error
            except DeadlineError:
                balancer.failed(instance)
                raise
            else:
                if answer.status not in retry.statuses:
                    self._account(balancer, instance, answer)
                    return answer
                balancer.failed(instance)
                fault = UnavailableError(f"{self._service_id} answered {answer.status}")
            following = None
            if retry.may_repeat(call.method, met):
                following = self._next(retry, balancer, tried, call, refused=met == REFUSED)
            if following is None:
                raise fault
            log.info("call_retried", service=self._service_id, reason=str(fault))
            instance = following

    def _counted(self, balancer: Balancer, instance: Instance, call: _Call) -> Answer:
        cookie = balancer.cookie(self._service_id, instance)
        if cookie:
            others = {name: text for name, text in call.headers.items() if name.lower() != "cookie"}
            cookies = "; ".join(filter(None, (call.header("cookie"), cookie)))
            call = replace(call, headers={**others, "Cookie": cookies})
        with balancer.calling(self._service_id, instance, call.method, call.route) as calling:
            answer = self._attempt(instance, call)
            calling.status = answer.status
            return answer

    @staticmethod
    def _account(balancer: Balancer, instance: Instance, answer: Answer) -> None:
        if answer.status in {502, 503, 504}:
            balancer.failed(instance)
        else:
            balancer.succeeded(instance)

    def _next(
        self,
        retry: RetrySettings,
        balancer: Balancer,
        tried: list[Instance],
        call: _Call,
        *,
        refused: bool,
    ) -> Instance | None:
        """Return the instance to try next, None when the call has failed for good."""
        # Every instance is tried once and `same` times more before the next one's turn.
        turns, begun = divmod(len(tried), retry.same + 1)
        if (turns > retry.following and not begun) or time.monotonic() >= call.ends:
            return None
        if not self._budget.permits():
            return None
        self._rest(retry, len(tried), call)
        if begun:
            return tried[-1]
        try:
            return balancer.choose(
                self._service_id, tried if retry.avoid_previous else (), call.header
            )
        except UnavailableError:
            # The only one there is. A kept connection that broke tells little about it: once more,
            # over a fresh one.
            return tried[0] if len(tried) == 1 and not refused else None

    def _rest(self, retry: RetrySettings, tries: int, call: _Call) -> None:
        if retry.backoff is None:
            return
        longest = min(retry.longest.total_seconds(), call.ends - time.monotonic())
        pause = retry.backoff.total_seconds() * 2.0 ** (tries - 1)
        pause *= 1 + retry.jitter * random.uniform(-1, 1)  # noqa: S311 - spreads, hides nothing
        self._pause(max(0.0, min(pause, longest)))

    def _left(self, call: _Call) -> float:
        """Return the seconds left for a call."""
        left = call.ends - time.monotonic()
        if left <= 0:
            raise DeadlineError(f"{self._service_id} did not answer in time")
        return left

    def _attempt(self, instance: Instance, call: _Call) -> Answer:
        left = self._left(call)
        limits = urllib3.Timeout(connect=min(self._connect_s, left), read=left)
        try:
            response = self._pool(instance).urlopen(
                call.method,
                call.target,
                body=call.body,
                headers=call.headers,
                retries=False,
                redirect=False,
                timeout=limits,
                preload_content=False,
                assert_same_host=False,
            )
            return self._read(response, call)
        except (faults.ConnectTimeoutError, faults.NewConnectionError) as error:
            raise _Refused(str(error)) from error
        except faults.TimeoutError as error:
            raise DeadlineError(f"{self._service_id} did not answer in time") from error
        except (faults.HTTPError, OSError) as error:
            raise _Broken(str(error)) from error

    def _read(self, response: urllib3.BaseHTTPResponse, call: _Call) -> Answer:
        """Read the body; the deadline holds for every piece of it."""
        pieces, size = list[bytes](), 0
        try:
            while piece := response.read1(_CHUNK):
                pieces.append(piece)
                size += len(piece)
                if size > self._longest:
                    raise UpstreamError(f"{self._service_id}: the answer is too long")  # noqa: TRY301
                socket: Any = getattr(response.connection, "sock", None)
                if socket is not None:
                    socket.settimeout(self._left(call))
        except BaseException:
            # Half-read, the connection is of no use to the next call.
            response.close()
            raise
        response.release_conn()
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, headers, b"".join(pieces), self._service_id)

    def _pool(self, instance: Instance) -> urllib3.HTTPConnectionPool:
        found = self._pools.get(instance.url)
        if found is not None:
            return found
        kind = urllib3.HTTPSConnectionPool if instance.secure else urllib3.HTTPConnectionPool
        with self._lock:
            if len(self._pools) >= _MAX_POOLS:
                # Instances come and go; the oldest pool belongs to one that is gone.
                self._pools.pop(next(iter(self._pools))).close()
            return self._pools.setdefault(
                instance.url, kind(instance.host, instance.port, maxsize=32, block=False)
            )


def shared(
    service_id: str, environment: Environment, timeout: timedelta = timedelta(seconds=2)
) -> ServiceClient:
    """Return the process's one client of a service, with what it has learned of its instances."""
    return scope(environment).get(
        f"client of {service_id}",
        timeout,
        lambda: ServiceClient(service_id, environment, timeout=timeout),
    )


def _limits(properties: Properties) -> tuple[float, int]:
    """Read how long a connection may take, in seconds, and how long an answer may be, in bytes."""
    patience = properties.duration("nozie.client.connect-timeout", timedelta(milliseconds=800))
    return patience.total_seconds(), properties.data_size("nozie.client.max-answer", 8 << 20)


def _usable(answer: Answer) -> Answer:
    if answer.status < 500:  # noqa: PLR2004
        return answer
    text = f"{answer.service_id} answered {answer.status}"
    if answer.status == 503:  # noqa: PLR2004
        raise UnavailableError(text)
    if answer.status == 504:  # noqa: PLR2004
        raise DeadlineError(text)
    raise UpstreamError(text)


def _route(path: str) -> str:
    """Return the path's template; what looks like an id is no part of it."""
    return re.sub(r"/[^/{}?]*\d[^/{}?]*", "/{id}", path.partition("?")[0])
