"""Eureka's REST operations: one kept connection a server, several servers, JSON.

What is said to the server is built by py-eureka-client's `eureka_basic`. Its coroutines await
nothing but their HTTP client, so ours takes that place, hands the finished request to the caller
and is resumed with the answer: no event loop, no second client, no connection per request.
"""

from collections.abc import Coroutine, Generator, Iterable, Mapping
from types import coroutine
from typing import Any
from urllib.parse import quote

import structlog
from py_eureka_client import eureka_basic, http_client  # type: ignore[import-untyped]

from cloud.errors import NotFoundError, UnavailableError, UpstreamError
from cloud.eureka.link import Answer, Link, LinkError
from cloud.eureka.registration import Registration
from cloud.eureka.servers import Rota, ServerSettings
from cloud.tls import Renewed

log = structlog.get_logger()

# eureka_basic refuses host names with underscores and reserved characters in passwords. It is
# given this base instead, and the real server's comes in its place when the request is sent.
_BASE = "http://eureka/"
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


class EurekaServer:
    """The registry's servers, called one at a time, by one thread at a time.

    I/O errors and 5xx move on to the next server; a 4xx is an answer and is not repeated
    elsewhere. Contact lost and found again is one log line each.

    Args:
        settings: where the servers are.
        identity: told to the server's rate limiter (`DiscoveryIdentity-Id`).
        tls: how to reach https addresses.

    Attributes:
        reached: the last call was answered; None before the first.
        doubts: how often the server may have lost its memory: it was away, or forgot a lease.

    Raises (every call):
        NotFoundError: 404.
        UpstreamError: any other 4xx.
        UnavailableError: no server answered.
    """

    def __init__(self, settings: ServerSettings, identity: str, tls: Renewed | None = None) -> None:
        self._tls = tls
        self._headers = {
            "Accept": "application/json",
            # The server's limiter spares clients of this name; ours is as eager as Java's.
            "DiscoveryIdentity-Name": "DefaultClient",
            "DiscoveryIdentity-Version": "1.4",
            "DiscoveryIdentity-Id": identity,
            "X-Discovery-AllowRedirect": "false",
        }
        self._links: dict[str, Link] = {}
        self.reached: bool | None = None
        self.doubts = 0
        self.configure(settings)

    def configure(self, settings: ServerSettings) -> None:
        """Take over where the servers are, now or after a refresh."""
        self._settings = settings
        self._rota = Rota(settings.zones)
        self._headers["Accept-Encoding"] = "gzip" if settings.gzip else "identity"
        self.close()

    def register(self, registration: Registration, status: str, dirty_ms: int) -> None:
        """Open the lease, or replace what the server knows of it (204)."""
        self._run(eureka_basic.register(_BASE, _instance(registration, status, dirty_ms)))

    def renew(self, registration: Registration, status: str, dirty_ms: int) -> None:
        """Renew the lease. 404: the server does not know it, or an older state of it."""
        beat = eureka_basic.send_heartbeat(
            _BASE, registration.app, registration.instance_id, dirty_ms, status
        )
        try:
            self._run(beat)
        except NotFoundError:
            self.doubts += 1
            raise

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

    def cancel_override(self, registration: Registration, dirty_ms: int) -> None:
        """Take back such an order; the status is then unknown until the next registration."""
        self._run(
            eureka_basic.delete_status_override(
                _BASE, registration.app, registration.instance_id, str(dirty_ms)
            )
        )

    def applications(self) -> Mapping[str, Any]:
        """Fetch the whole registry."""
        return self._read("apps/", "applications")

    def delta(self) -> Mapping[str, Any]:
        """Fetch what changed lately; servers with deltas switched off answer 403."""
        return self._read("apps/delta", "applications")

    def instance(self, registration: Registration) -> Mapping[str, Any]:
        """Fetch what the server knows of one instance."""
        path = f"apps/{quote(registration.app)}/{quote(registration.instance_id)}"
        return self._read(path, "instance")

    def _read(self, path: str, root: str) -> Mapping[str, Any]:
        # eureka_basic reads XML only and loses applications; these are asked for directly.
        answer = self._send(http_client.HttpRequest(f"{_BASE}{path}"))
        try:
            document = answer.json()[root]
        except (ValueError, KeyError, TypeError) as error:
            raise UpstreamError(f"eureka: {path} is no such thing") from error
        if not isinstance(document, dict):
            raise UpstreamError(f"eureka: {path} is no such thing")
        return document

    def _run(self, operation: Coroutine[Any, Any, Any]) -> None:
        """Drive one of eureka_basic's coroutines: it asks once, and is answered once."""
        request = operation.send(None)
        try:
            self._send(request)
            operation.send(http_client.HttpResponse())
        except StopIteration:
            return
        finally:
            operation.close()

    def _send(self, request: http_client.HttpRequest) -> Answer:
        if self._tls is not None and self._tls.renew():
            self.close()
        path = request.url.removeprefix(_BASE)
        headers = self._headers | request.headers
        reason: object = None
        for url in self._rota:
            try:
                answer = self._link(url).ask(request.method, path, headers, request.content)
            except LinkError as error:
                reason = error
            else:
                if answer.status < _SERVER_FAULT:
                    self._rota.worked(url)
                    self._found(url)
                    return _checked(answer)
                reason = answer.status
            self._rota.failed(url)
        self._lost(reason)
        raise UnavailableError("eureka is not reachable")

    def _link(self, url: str) -> Link:
        if url not in self._links:
            given = self._settings
            tls = self._tls.context if self._tls else None
            self._links[url] = Link(
                url, given.connect_timeout, given.read_timeout, tls, given.proxy
            )
        return self._links[url]

    def close(self) -> None:
        """Let go of the connections; the next call opens others."""
        for link in self._links.values():
            link.close()
        self._links.clear()

    def _found(self, url: str) -> None:
        if self.reached is False:
            log.info("eureka_found", server=_host(url))
        self.reached = True

    def _lost(self, reason: object) -> None:
        self.doubts += 1
        if self.reached is not False:
            log.warning(
                "waiting_for",
                what="eureka",
                servers=_hosts(self._settings.urls),
                reason=str(reason),
            )
        self.reached = False


def _checked(answer: Answer) -> Answer:
    if answer.status == _NOT_FOUND:
        raise NotFoundError("eureka: not registered")
    if not answer.ok:
        raise UpstreamError(f"eureka: answered {answer.status}")
    return answer


def _host(url: str) -> str:
    """Return an address without the credentials it may carry."""
    return url.rsplit("@", 1)[-1]


def _hosts(urls: Iterable[str]) -> str:
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
        secureHealthCheckUrl=registration.secure_health_check_url,
        leaseInfo=eureka_basic.LeaseInfo(
            renewalIntervalInSecs=int(registration.renewal.total_seconds()),
            durationInSecs=int(registration.duration.total_seconds()),
        ),
        metadata=dict(registration.metadata),
        lastUpdatedTimestamp=dirty_ms,
        lastDirtyTimestamp=dirty_ms,
    )
