"""MapRequestHeader: the values of one header again under another name."""

from dataclasses import replace

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools
from gateway.predicates import bind


def map_request_header(definition: Definition, _: Tools) -> Filter:
    """Build the filter; without `fromHeader` in the request nothing happens."""
    source, target = (
        str(name).lower().encode("ascii")
        for name in bind(definition.args, "fromHeader", "toHeader")
    )

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        if target == b"host":  # there is one, and it is the target's own
            return await proceed(exchange)
        mapped = [(target, value) for name, value in exchange.headers if name == source]
        return await proceed(replace(exchange, headers=[*exchange.headers, *mapped]))

    return apply
