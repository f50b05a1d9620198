"""Eureka's REST operations: one connection pool, several servers, JSON.

What is said to the server is built by py-eureka-client's `eureka_basic`. Its coroutines await
nothing but their HTTP client, so ours takes that place, hands the finished request to the caller
and is resumed with the answer: no event loop, no second client, no connection per request.
"""

from collections.abc import Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import coroutine
from typing import Any

import requests
import structlog
from py_eureka_client import eureka_basic, http_client  # type: ignore[import-untyped]

from cloud.config import Properties
from cloud.errors import NotFoundError, UnavailableError, UpstreamError
from cloud.eureka.registration import Registration

log = structlog.get_logger()

# eureka_basic refuses host names with underscores and reserved characters in passwords. It is
# given this base instead, and the real server's comes in its place when the request is sent.
_BASE = "http://eureka/"
_TRIES = 3
_NOT_FOUND = 404
_SERVER_FAULT = 500


@coroutine
def _hand_over(
    request: http_client.HttpRequest,
) -> Generator[http_client.HttpRequest, http_client.HttpResponse, http_client.HttpResponse]:
    return (yield request)


class _Transport(http_client.HttpClient):  # type: ignore[misc]
    """Stands where eureka_basic expects its HTTP client."""

    async def urlopen(
        self,
        request: http_client.HttpRequest,
        data: bytes | None = None,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109 - the signature is the library's
    ) -> http_client.HttpResponse:
        request.content = data
        return await _hand_over(request)


http_client.set_http_client(_Transport())


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where Eureka is and how long a call may take (`eureka.client.*`)."""

    urls: tuple[str, ...]
    connect_timeout: timedelta
    read_timeout: timedelta
    gzip: bool

    @classmethod
    def of(cls, properties: Properties) -> "ServerSettings":
        return cls(
            urls=_zone_urls(properties),
            connect_timeout=properties.duration(
                "eureka.client.eureka-server-connect-timeout-seconds",
                timedelta(seconds=5),
                unit="s",
            ),
            read_timeout=properties.duration(
                "eureka.client.eureka-server-read-timeout-seconds", timedelta(seconds=8), unit="s"
            ),
            gzip=properties.boolean("eureka.client.g-zip-content", default=True),
        )


def _zone_urls(properties: Properties) -> tuple[str, ...]:
    """Read the servers' addresses; `defaultZone` is a map key, so its spelling is kept."""
    default = ("http://localhost:8761/eureka/",)
    urls = properties.listing("eureka.client.service-url.defaultZone", default)
    return tuple(url.rstrip("/") + "/" for url in urls if url) or default


class EurekaServer:
    """The registry's servers, called one at a time.

    A call stays with the server that answered last. I/O errors and 5xx move on to the next, at
    most three tries a call; a 4xx is an answer and is not repeated elsewhere. Contact lost and
    found again is one log line each.

    Raises (every call):
        NotFoundError: 404.
        UpstreamError: any other 4xx.
        UnavailableError: no server answered.
    """

    def __init__(self, settings: ServerSettings, identity: str) -> None:
        self._urls = settings.urls
        self._timeout = (
            settings.connect_timeout.total_seconds(),
            settings.read_timeout.total_seconds(),
        )
        self._session = requests.Session()
        # Proxies and passwords come from the settings alone, never from the user's home.
        self._session.trust_env = False
        self._session.headers.update(
            {
                "Accept": "application/json",
                "Accept-Encoding": "gzip" if settings.gzip else "identity",
                "DiscoveryIdentity-Name": "DefaultClient",
                "DiscoveryIdentity-Version": "1.4",
                "DiscoveryIdentity-Id": identity,
            }
        )
        self._current = 0
        self.reached: bool | None = None

    def register(self, registration: Registration, status: str, dirty_ms: int) -> None:
        """Open the lease, or replace what the server knows of it (204)."""
        self._run(eureka_basic.register(_BASE, _instance(registration, status, dirty_ms)))

    def renew(self, registration: Registration, status: str, dirty_ms: int) -> None:
        """Renew the lease. 404: the server does not know it, or an older state of it."""
        self._run(
            eureka_basic.send_heartbeat(
                _BASE, registration.app, registration.instance_id, dirty_ms, status
            )
        )

    def cancel(self, registration: Registration) -> None:
        """End the lease."""
        self._run(eureka_basic.cancel(_BASE, registration.app, registration.instance_id))

    def override(self, registration: Registration, status: str, dirty_ms: int) -> None:
        """Order a status over the instance's own, as an operator does."""
        self._run(
            eureka_basic.status_update(
                _BASE, registration.app, registration.instance_id, dirty_ms, status
            )
        )

    def applications(self) -> Mapping[str, Any]:
        """Fetch the whole registry."""
        return self._read("apps/")

    def delta(self) -> Mapping[str, Any]:
        """Fetch what changed lately; servers with deltas switched off answer 403."""
        return self._read("apps/delta")

    def _read(self, path: str) -> Mapping[str, Any]:
        # eureka_basic reads XML only and loses applications; these two are asked for directly.
        answer = self._send(http_client.HttpRequest(f"{_BASE}{path}"))
        try:
            document = answer.json()["applications"]
        except (ValueError, KeyError, TypeError) as error:
            raise UpstreamError(f"eureka: {path} is not a registry") from error
        if not isinstance(document, dict):
            raise UpstreamError(f"eureka: {path} is not a registry")
        return document

    def _run(self, operation: Coroutine[Any, Any, Any]) -> None:
        """Drive one of eureka_basic's coroutines: it asks once, and is answered once."""
        request = operation.send(None)
        try:
            operation.send(http_client.HttpResponse(self._send(request)))
        except StopIteration:
            return
        finally:
            operation.close()

    def _send(self, request: http_client.HttpRequest) -> requests.Response:
        reason: object = None
        for _ in range(max(_TRIES, len(self._urls)) if len(self._urls) > 1 else 1):
            try:
                answer = self._try(request)
            except requests.RequestException as error:
                reason = type(error).__name__
            else:
                if answer.status_code < _SERVER_FAULT:
                    self._found()
                    return _checked(answer)
                reason = answer.status_code
            self._current = (self._current + 1) % len(self._urls)
        self._lost(reason)
        raise UnavailableError("eureka is not reachable")

    def _try(self, request: http_client.HttpRequest) -> requests.Response:
        return self._session.request(
            request.method,
            self._urls[self._current] + request.url.removeprefix(_BASE),
            headers=request.headers,
            data=request.content,
            timeout=self._timeout,
        )

    def _found(self) -> None:
        if self.reached is False:
            log.info("eureka_found", server=_host(self._urls[self._current]))
        self.reached = True

    def _lost(self, reason: object) -> None:
        if self.reached is not False:
            log.warning("waiting_for", what="eureka", servers=_hosts(self._urls), reason=reason)
        self.reached = False


def _checked(answer: requests.Response) -> requests.Response:
    if answer.status_code == _NOT_FOUND:
        raise NotFoundError("eureka: not registered")
    if not answer.ok:
        raise UpstreamError(f"eureka: answered {answer.status_code}")
    return answer


def _host(url: str) -> str:
    """Return an address without the credentials it may carry."""
    return url.rsplit("@", 1)[-1]


def _hosts(urls: Sequence[str]) -> str:
    return ",".join(map(_host, urls))


def _instance(registration: Registration, status: str, dirty_ms: int) -> eureka_basic.Instance:
    return eureka_basic.Instance(
        instanceId=registration.instance_id,
        app=registration.app,
        hostName=registration.host,
        ipAddr=registration.ip,
        status=status,
        overriddenstatus="UNKNOWN",
        port=eureka_basic.PortWrapper(registration.port, registration.port_enabled),
        securePort=eureka_basic.PortWrapper(
            registration.secure_port, registration.secure_port_enabled
        ),
        vipAddress=registration.vip,
        secureVipAddress=registration.secure_vip,
        homePageUrl=registration.home_page_url,
        statusPageUrl=registration.status_page_url,
        healthCheckUrl=registration.health_check_url,
        leaseInfo=eureka_basic.LeaseInfo(
            renewalIntervalInSecs=int(registration.renewal.total_seconds()),
            durationInSecs=int(registration.duration.total_seconds()),
        ),
        metadata=dict(registration.metadata),
        lastUpdatedTimestamp=dirty_ms,
        lastDirtyTimestamp=dirty_ms,
    )
