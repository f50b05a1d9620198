"""RemoveRequestHeader: keeps a header from the upstream."""

from dataclasses import replace

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools
from gateway.predicates import bind


def remove_request_header(definition: Definition, _: Tools) -> Filter:
    """Build the filter; `name` in any case."""
    header = str(bind(definition.args, "name")[0]).lower().encode("ascii")

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        kept = [held for held in exchange.headers if held[0] != header]
        return await proceed(replace(exchange, headers=kept))

    return apply
