"""RequestSize: the largest body that a route takes, instead of the general limit."""

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools, message, size_of
from gateway.predicates import bind

DEFAULT = 5 * 1000 * 1000
_UNIT, _UNITS = 1000, "kMGTPEZY"


def limit_of(definition: Definition) -> int:
    """Read `maxSize` in bytes; Spring's default is 5 MB."""
    given = bind(definition.args, "maxSize", required=0)[0]
    return size_of(given) if given else DEFAULT


def request_size(definition: Definition, _: Tools) -> Filter:
    """Build the filter; a body without a length is counted while it passes."""
    limit = limit_of(definition)

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        if exchange.body is not None:
            exchange.body.limit = limit
            if (exchange.body.length or 0) > limit:
                text = (
                    "Request size is larger than permissible limit. Request size is"
                    f" {_readable(exchange.body.length or 0)} where permissible limit is"
                    f" {_readable(limit)}"
                )
                return message(413, text, (b"errorMessage", text.encode()))
        return await proceed(exchange)

    return apply


def _readable(size: int) -> str:
    """Spell a size as Spring's filter does: `11 B`, `1.5 MB`."""
    if size < _UNIT:
        return f"{size} B"
    power = next(n for n in range(1, len(_UNITS) + 1) if size < _UNIT ** (n + 1))
    return f"{size / _UNIT**power:.1f} {_UNITS[power - 1]}B"
