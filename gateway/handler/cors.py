"""CORS (Fetch standard): answered here, once; what services say about it is dropped."""

import re
from collections.abc import Callable, Sequence

from gateway.exchange import Exchange, Headers, Reply, message
from gateway.predicates import Pattern
from gateway.settings import Cors

# Told with every answer, as Spring does: the copy for a request without an Origin is not one for a
# request with one.
VARY = (b"Vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers")


class CorsRules:
    """The settings, compiled: rules for some paths, and those for all others.

    `closer` holds path patterns that go before the settings' own: a route's. What is `own` to the
    gateway's management has rules of its own: `management.endpoints.web.cors.*`.
    """

    def __init__(
        self,
        settings: Cors,
        by_path: Sequence[tuple[str, Cors]] = (),
        closer: Sequence[tuple[str, Cors]] = (),
        own: Callable[[Exchange], bool] = lambda _: False,
    ) -> None:
        self._own = own
        self._general = _Rule(settings)
        self._by_path = [(Pattern(path), _Rule(rule)) for path, rule in (*closer, *by_path)]

    def refusal(self, exchange: Exchange) -> Reply | None:
        """Answer a preflight, or a request from an origin that may not call; else None."""
        if exchange.origin is None or _same_origin(exchange) or self._own(exchange):
            return None
        rule = self._of(exchange.path)
        wanted = exchange.header(b"access-control-request-method")
        if exchange.method == "OPTIONS" and wanted is not None:
            return rule.preflight(exchange, wanted)
        return None if rule.known(exchange.origin) else message(403, "Invalid CORS request")

    def headers(self, exchange: Exchange) -> Headers:
        """What an answer to this request says about CORS, beside VARY."""
        if exchange.origin is None or _same_origin(exchange) or self._own(exchange):
            return []
        return self._of(exchange.path).headers(exchange.origin)

    def _of(self, path: str) -> "_Rule":
        for pattern, rule in self._by_path:
            if pattern.match(path) is not None:
                return rule
        return self._general


class _Rule:
    """One CorsConfiguration."""

    def __init__(self, settings: Cors) -> None:
        self._any_origin = "*" in settings.origins
        self._origins = {origin.encode() for origin in settings.origins}
        self._patterns = [
            re.compile(re.escape(pattern).replace(r"\*", ".*").encode())
            for pattern in settings.patterns
        ]
        self._methods = {method.encode() for method in settings.methods}
        self._allow_methods = ", ".join(settings.methods).encode()
        self._any_header = "*" in settings.headers
        self._headers = {name.lower().encode() for name in settings.headers}
        self._said: Headers = []
        if settings.exposed:
            exposed = ", ".join(settings.exposed).encode()
            self._said.append((b"Access-Control-Expose-Headers", exposed))
        self._credentials = settings.credentials
        self._max_age = settings.max_age_s

    def preflight(self, exchange: Exchange, method: bytes) -> Reply:
        asked = exchange.header(b"access-control-request-headers") or b""
        names = [name.strip() for name in asked.split(b",") if name.strip()]
        fitting = self._any_header or all(name.lower() in self._headers for name in names)
        any_method = b"*" in self._methods
        known = self.known(exchange.origin or b"")
        if not (known and (any_method or method in self._methods) and fitting):
            return message(403, "Invalid CORS request")
        allowed = method if any_method else self._allow_methods
        headers = [(b"Access-Control-Allow-Methods", allowed)]
        if names:
            headers.append((b"Access-Control-Allow-Headers", b", ".join(names)))
        if self._max_age is not None:
            headers.append((b"Access-Control-Max-Age", b"%d" % self._max_age))
        return Reply(200, headers)

    def known(self, origin: bytes) -> bool:
        return (
            self._any_origin
            or origin in self._origins
            or any(pattern.fullmatch(origin) for pattern in self._patterns)
        )

    def headers(self, origin: bytes) -> Headers:
        if not self.known(origin):
            return []
        shown = b"*" if self._any_origin else origin
        said = [(b"Access-Control-Allow-Origin", shown), *self._said]
        if self._credentials:
            said.append((b"Access-Control-Allow-Credentials", b"true"))
        return said


def _same_origin(exchange: Exchange) -> bool:
    return exchange.origin == f"{exchange.scheme}://{exchange.host}".encode()
