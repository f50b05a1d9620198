"""RequestHeaderSize: the largest single header that a route takes."""

from collections import Counter

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools, message, size_of
from gateway.predicates import bind

DEFAULT = "16000B"


def request_header_size(definition: Definition, _: Tools) -> Filter:
    """Build the filter; the answer's header `errorHeaderName` names what is too large."""
    given, header = bind(definition.args, "maxSize", "errorHeaderName", required=0)
    limit, told = size_of(given or DEFAULT), (header or "errorMessage").encode("ascii")

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        sizes: Counter[bytes] = Counter()
        for name, value in exchange.headers:
            sizes[name] += len(value) + (0 if name in sizes else len(name))
        large = [name.decode("latin-1") for name, size in sizes.items() if size > limit]
        if large:
            text = f"Request headers are larger than permissible limit ({limit} bytes): "
            text += ", ".join(large)
            return message(431, text, (told, text.encode("latin-1")))
        return await proceed(exchange)

    return apply
