"""RemoveResponseHeader: keeps a header of the upstream from the client."""

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools
from gateway.predicates import bind


def remove_response_header(definition: Definition, _: Tools) -> Filter:
    """Build the filter; `name` in any case."""
    lowered = str(bind(definition.args, "name")[0]).lower().encode("ascii")

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        reply = await proceed(exchange)
        reply.headers = [held for held in reply.headers if held[0].lower() != lowered]
        return reply

    return apply
