"""FallbackHeaders: tells a fallback's upstream why the request comes to it."""

from dataclasses import replace

from pybreaker import CircuitBreakerError

from cloud.errors import DeadlineError, UnavailableError
from gateway.exchange import Definition, Exchange, Filter, Handler, Headers, Reply, Tools
from gateway.predicates import bind

_FIELDS = (
    "executionExceptionTypeHeaderName",
    "executionExceptionMessageHeaderName",
    "rootCauseExceptionTypeHeaderName",
    "rootCauseExceptionMessageHeaderName",
)
_NAMES = (
    "Execution-Exception-Type",
    "Execution-Exception-Message",
    "Root-Cause-Exception-Type",
    "Root-Cause-Exception-Message",
)
# A fallback that was written for the JVM's gateway tells failures apart by these.
_TYPES: tuple[tuple[type[Exception], str], ...] = (
    (CircuitBreakerError, "io.github.resilience4j.circuitbreaker.CallNotPermittedException"),
    (DeadlineError, "java.util.concurrent.TimeoutException"),
    (UnavailableError, "java.net.ConnectException"),
    (Exception, "java.io.IOException"),
)


def fallback_headers(definition: Definition, _: Tools) -> Filter:
    """Build the filter; each argument renames one of the four headers."""
    given = bind(definition.args, *_FIELDS, required=0)
    names = [
        (name or default).lower().encode("ascii")
        for name, default in zip(given, _NAMES, strict=True)
    ]

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        if exchange.failure is None:
            return await proceed(exchange)
        told = _described(exchange.failure) * 2
        added: Headers = list(zip(names, told, strict=True))
        kept = [held for held in exchange.headers if held[0] not in names]
        return await proceed(replace(exchange, headers=[*kept, *added]))

    return apply


def _described(error: Exception) -> list[bytes]:
    kind = next(name for known, name in _TYPES if isinstance(error, known))
    text = "".join(letter for letter in str(error) if letter.isprintable())
    return [kind.encode(), text.encode("ascii", "replace")]
