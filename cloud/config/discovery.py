"""Where the Config Server is, by Eureka: Spring Cloud Config's "Discovery First Bootstrap".

One question of Eureka's REST operations, asked before there is anything else of a registry.
"""

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth

from cloud import tls
from cloud.config.properties import Properties
from cloud.config.proxy import Proxy

_ZONE = "eureka.client.service-url.defaultZone"
_OK, _NOT_FOUND = 200, 404


class AwayError(Exception):
    """No answer that can be used; another address or another attempt may have one.

    Attributes:
        status: of the answer that there was, None when there was none.
    """

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Server:
    """One address; user-info is kept apart from it, so that no log and no error shows it."""

    url: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    proxy: Proxy | None = None

    @classmethod
    def of(cls, url: str) -> "Server":
        """Take user-info out of a URL, and its query.

        Raises:
            ValueError: it is no http URL.
        """
        parts = urlsplit(url.strip())
        host = parts.netloc.rpartition("@")[2]
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError
        bare = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
        return cls(bare, unquote(parts.username or "") or None, unquote(parts.password or ""))

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        timeouts: tuple[float, float],
        adapter: HTTPAdapter | None,
        form: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Ask for a path below the address; redirects are an answer like another.

        Raises:
            AwayError: no answer at all.
        """
        with requests.Session() as session:
            session.trust_env = False
            if self.proxy:
                session.proxies = dict.fromkeys(("http", "https"), self.proxy.url)
            if adapter:
                session.mount("https://", adapter)
            login = None
            if self.user:
                # As bytes in UTF-8 (RFC 7617, section 2.1): the library takes text for Latin-1.
                login = HTTPBasicAuth(self.user.encode(), (self.password or "").encode())
            try:
                return session.request(
                    method,
                    f"{self.url}/{path}" if path else self.url,
                    data=form,
                    headers=headers,
                    auth=login,
                    timeout=timeouts,
                    # It would carry our credentials to somebody else.
                    allow_redirects=False,
                )
            except requests.RequestException as error:
                raise AwayError(f"{self.url}: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """Name the innermost cause: "Connection refused" rather than a pool's whole story."""
    seen: BaseException = error
    for inner in (*error.args, getattr(error.args[0] if error.args else None, "reason", None)):
        if isinstance(inner, BaseException):
            seen = inner
    while seen.__cause__ or seen.__context__:
        seen = seen.__cause__ or seen.__context__ or seen
    if isinstance(seen, ssl.SSLError):
        return getattr(seen, "verify_message", "") or seen.reason or "no TLS"
    return getattr(seen, "strerror", None) or type(seen).__name__


def lookup(given: Properties, service: str) -> Callable[[], Sequence[Server]]:
    """Build the search for the instances of a service that are UP.

    Their metadata `user`, `password` and `configPath` count, as with Spring's client.

    Raises:
        ConfigurationError: Eureka's address, or its TLS, cannot be used.
        AwayError (the search): no Eureka answers, or none knows such an instance.
    """
    try:
        eurekas = [Server.of(url) for url in given.listing(_ZONE, ["http://localhost:8761/eureka"])]
    except ValueError:
        raise given.wrong(_ZONE, "has an address that is no http URL") from None
    prefix = "eureka.client.eureka-server"
    timeouts = (
        given.duration(f"{prefix}-connect-timeout-seconds", timedelta(seconds=5), unit="s"),
        given.duration(f"{prefix}-read-timeout-seconds", timedelta(seconds=8), unit="s"),
    )
    seconds = (timeouts[0].total_seconds(), timeouts[1].total_seconds())
    adapter = tls.adapter(given, "eureka.client.tls")
    proxy = Proxy.of(given)

    def find() -> Sequence[Server]:
        last = AwayError("no Eureka is configured")
        for eureka in eurekas:
            try:
                return _instances(replace(eureka, proxy=proxy), service, seconds, adapter)
            except AwayError as error:
                last = error
        raise last

    return find


def _instances(
    eureka: Server, service: str, timeouts: tuple[float, float], adapter: HTTPAdapter | None
) -> list[Server]:
    path = f"apps/{quote(service.upper(), safe='')}"
    reply = eureka.ask("GET", path, {"Accept": "application/json"}, timeouts, adapter)
    if reply.status_code not in (_OK, _NOT_FOUND):
        raise AwayError(f"{eureka.url} answered {reply.status_code}")
    try:
        told = reply.json()["application"]["instance"] if reply.status_code == _OK else []
        # A single one may stand without its list.
        instances = [told] if isinstance(told, dict) else told
        found = [_server(one) for one in instances if one["status"] == "UP"]
    except (ValueError, KeyError, TypeError):
        raise AwayError(f"{eureka.url} did not answer as Eureka does") from None
    if not found:
        raise AwayError(f"{eureka.url} knows no instance of {service} that is UP")
    return found


def _server(instance: Mapping[str, Any]) -> Server:
    """Read host, port and metadata of an instance ("Eureka REST operations")."""
    secure = instance.get("securePort") or {}
    told = secure if secure.get("@enabled") == "true" else instance["port"]
    scheme = "https" if told is secure else "http"
    metadata = instance.get("metadata") or {}
    path = str(metadata.get("configPath") or "").strip("/")
    url = f"{scheme}://{instance['hostName']}:{told['$']}/{path}".rstrip("/")
    password = metadata.get("password")
    return Server(url, str(metadata.get("user") or "user") if password else None, password)
