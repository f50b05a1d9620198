"""AddRequestHeadersIfNotPresent: headers for the upstream that the client did not send."""

from dataclasses import replace

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools, expand
from gateway.predicates import gather


def add_request_headers_if_not_present(definition: Definition, _: Tools) -> Filter:
    """Build the filter from `name:value` pairs; a value may hold variables of the match.

    Raises:
        ValueError: no pair.
    """
    pairs = []
    for text in gather(definition.args, "keyValues"):
        name, colon, value = text.partition(":")
        if not colon or not name:
            raise ValueError(f"{text} is not name:value")
        pairs.append((name.strip().lower().encode("ascii"), value.strip()))

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        given = {b"host", *(name for name, _ in exchange.headers)}
        added = [
            (name, expand(value, exchange.variables).encode())
            for name, value in pairs
            if name not in given
        ]
        return await proceed(replace(exchange, headers=[*exchange.headers, *added]))

    return apply
