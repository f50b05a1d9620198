"""AddRequestHeader: one more value of a header for the upstream."""

from dataclasses import replace

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools, expand
from gateway.predicates import bind


def add_request_header(definition: Definition, _: Tools) -> Filter:
    """Build the filter; `value` may hold variables of the match."""
    name, value = bind(definition.args, "name", "value")
    header, template = str(name).lower().encode("ascii"), str(value)

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        if header == b"host":  # there is one, and it is the target's own
            return await proceed(exchange)
        field = (header, expand(template, exchange.variables).encode())
        headers = [*exchange.headers, field]
        return await proceed(replace(exchange, headers=headers))

    return apply
