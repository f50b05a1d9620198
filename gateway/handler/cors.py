"""CORS (Fetch standard): answered here, once; what services say about it is dropped."""

from gateway.exchange import Exchange, Headers, Reply, message
from gateway.settings import Cors

_VARY = (b"Vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers")


class CorsRules:
    """The settings, compiled."""

    def __init__(self, settings: Cors) -> None:
        self._any_origin = "*" in settings.origins
        self._origins = {origin.encode() for origin in settings.origins}
        self._methods = {method.encode() for method in settings.methods}
        self._any_header = "*" in settings.headers
        self._headers = {name.lower().encode() for name in settings.headers}
        self._exposed = (b"Access-Control-Expose-Headers", ", ".join(settings.exposed).encode())
        self._allow_methods = (
            b"Access-Control-Allow-Methods",
            ", ".join(settings.methods).encode(),
        )
        self._max_age = settings.max_age_s

    def refusal(self, exchange: Exchange) -> Reply | None:
        """Answer a preflight, or a request from an origin that may not call; else None."""
        if exchange.origin is None or self._same_origin(exchange):
            return None
        wanted = exchange.header(b"access-control-request-method")
        if exchange.method == "OPTIONS" and wanted is not None:
            return self._preflight(exchange, wanted)
        return None if self._known(exchange.origin) else message(403, "Invalid CORS request")

    def headers(self, exchange: Exchange) -> Headers:
        """What an answer to this request says about CORS."""
        if (
            exchange.origin is None
            or not self._known(exchange.origin)
            or self._same_origin(exchange)
        ):
            return []
        return [self._origin(exchange.origin), self._exposed, _VARY]

    def _preflight(self, exchange: Exchange, method: bytes) -> Reply:
        asked = exchange.header(b"access-control-request-headers") or b""
        names = [name.strip() for name in asked.split(b",") if name.strip()]
        fitting = self._any_header or all(name.lower() in self._headers for name in names)
        if not (self._known(exchange.origin or b"") and method in self._methods and fitting):
            return message(403, "Invalid CORS request")
        headers = [self._allow_methods]
        if names:
            headers.append((b"Access-Control-Allow-Headers", b", ".join(names)))
        if self._max_age is not None:
            headers.append((b"Access-Control-Max-Age", b"%d" % self._max_age))
        return Reply(200, headers)

    def _known(self, origin: bytes) -> bool:
        return self._any_origin or origin in self._origins

    def _origin(self, origin: bytes) -> tuple[bytes, bytes]:
        return b"Access-Control-Allow-Origin", b"*" if self._any_origin else origin

    @staticmethod
    def _same_origin(exchange: Exchange) -> bool:
        return exchange.origin == f"{exchange.scheme}://{exchange.host}".encode()
