"""SetRequestHeader: the only value of a header for the upstream.

As in Spring the Host is the target's own, unless PreserveHostHeader comes first.
"""

from dataclasses import replace

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools, expand
from gateway.predicates import bind


def set_request_header(definition: Definition, _: Tools) -> Filter:
    """Build the filter; `value` may hold variables of the match."""
    name, value = bind(definition.args, "name", "value")
    header, template = str(name).lower().encode("ascii"), str(value)

    async def name_host(exchange: Exchange, proceed: Handler) -> Reply:
        if exchange.preserve_host is None:
            return await proceed(exchange)
        host = expand(template, exchange.variables).encode()
        return await proceed(replace(exchange, preserve_host=host))

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        field = (header, expand(template, exchange.variables).encode())
        headers = [*(held for held in exchange.headers if held[0] != header), field]
        return await proceed(replace(exchange, headers=headers))

    return name_host if header == b"host" else apply
