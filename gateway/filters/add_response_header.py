"""AddResponseHeader: one more value of a header for the client."""

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools, expand
from gateway.predicates import bind


def add_response_header(definition: Definition, _: Tools) -> Filter:
    """Build the filter; `value` may hold variables of the match.

    With `override` false a header that the upstream sent is left alone.
    """
    name, value, third = map(str, bind(definition.args, "name", "value", "override", required=2))
    override = third != "false"
    header, lowered = name.encode("ascii"), name.lower().encode("ascii")

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        reply = await proceed(exchange)
        field = (header, expand(value, exchange.variables).encode())
        if override or all(held[0].lower() != lowered for held in reply.headers):
            reply.headers.append(field)
        return reply

    return apply
