"""SetResponseHeader: the only value of a header for the client."""

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools, expand
from gateway.predicates import bind


def set_response_header(definition: Definition, _: Tools) -> Filter:
    """Build the filter; `value` may hold variables of the match."""
    name, value = map(str, bind(definition.args, "name", "value"))
    header, lowered = name.encode("ascii"), name.lower().encode("ascii")

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        reply = await proceed(exchange)
        reply.headers = [held for held in reply.headers if held[0].lower() != lowered]
        reply.headers.append((header, expand(value, exchange.variables).encode()))
        return reply

    return apply
