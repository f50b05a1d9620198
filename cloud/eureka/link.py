"""Links: a kept connection to one Eureka server, and what is said over it."""

import base64
import http.client
import ssl
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson

from cloud.config.proxy import Proxy

_GZIP = 31
"""zlib's window bits for a gzip header and trailer."""


class LinkError(Exception):
    """No answer came."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered."""

    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300  # noqa: PLR2004 - RFC 9110 section 15.3

    def json(self) -> Any:
        """Decode the body.

        Raises:
            ValueError: it is no JSON.
        """
        return orjson.loads(self.body)


class Link:
    """One server; not to be shared by threads.

    Args:
        url: may hold user and password, percent-encoded.
        connect, read: how long a connection, and each piece of an answer, may take.
        tls: for an https address; Python's default context when None.
        proxy: stands in between; None for a straight way.
    """

    def __init__(
        self,
        url: str,
        connect: timedelta,
        read: timedelta,
        tls: ssl.SSLContext | None,
        proxy: Proxy | None = None,
    ) -> None:
        parts = urlsplit(url)
        self._path = parts.path
        self._read_s = read.total_seconds()
        self._headers: dict[str, str] = {}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(login).decode()}"
        host, port, span = parts.hostname or "", parts.port, connect.total_seconds()
        near = (proxy.host, proxy.port) if proxy else (host, port)
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            self._connection = http.client.HTTPSConnection(*near, timeout=span, context=tls)
        else:
            self._connection = http.client.HTTPConnection(*near, timeout=span)
        if proxy and parts.scheme == "https":
            self._connection.set_tunnel(host, port, proxy.headers)
        elif proxy:
            # A proxy reads the whole address from the request line.
            self._path = f"http://{parts.netloc.rpartition('@')[2]}{parts.path}"
            self._headers |= proxy.headers

    def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        """Ask once; again over a fresh connection when the kept one turns out to be closed.

        Every operation of Eureka may be repeated.

        Raises:
            LinkError: no answer, or none that is HTTP; its text is safe to log.
        """
        kept = self._connection.sock is not None
        try:
            return self._ask(method, path, headers, body)
        except (http.client.RemoteDisconnected, ConnectionError) as error:
            self.close()
            if not kept:
                raise LinkError(type(error).__name__) from error
        except (OSError, UnicodeError, http.client.HTTPException, zlib.error) as error:
            self.close()
            raise LinkError(type(error).__name__) from error
        return self.ask(method, path, headers, body)

    def _ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None
    ) -> Answer:
        connection = self._connection
        if connection.sock is None:
            connection.connect()
            socket: Any = connection.sock
            socket.settimeout(self._read_s)
        connection.request(method, self._path + path, body, {**headers, **self._headers})
        response = connection.getresponse()
        content = response.read()
        if response.getheader("Content-Encoding", "").lower() == "gzip" and content:
            content = zlib.decompress(content, _GZIP)
        return Answer(response.status, content)

    def close(self) -> None:
        """Let go of the connection; the next question opens another."""
        self._connection.close()
